"""What the user sees: thin V3 nodes, one file per stage. Each stage file ends in NODES."""

from . import (
    cag,
    dynamicid,
    face,
    fetch,
    flexid,
    flexip,
    gates,
    guidance,
    identity,
    imr,
    saa,
    saa_watch,
    sip,
    text_encoder,
    vfa,
    who,
)

NODES = [
    *face.NODES,
    *identity.NODES,
    *gates.NODES,
    *cag.NODES,
    *sip.NODES,
    *vfa.NODES,
    *flexid.NODES,
    *flexip.NODES,
    *dynamicid.NODES,
    *imr.NODES,
    *saa.NODES,
    *saa_watch.NODES,
    *who.NODES,
    *guidance.NODES,
    *text_encoder.NODES,
    *fetch.NODES,
]
