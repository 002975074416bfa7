"""What the user sees: thin V3 nodes, one file per stage. Each stage file ends in NODES."""

from . import (
    cag,
    dynamicid,
    editid,
    face,
    fetch,
    flexid,
    flexip,
    gates,
    guidance,
    identity,
    saa,
    sip,
    text_encoder,
    vfa,
)

NODES = [
    *face.NODES,
    *identity.NODES,
    *gates.NODES,
    *cag.NODES,
    *sip.NODES,
    *vfa.NODES,
    *editid.NODES,
    *flexid.NODES,
    *flexip.NODES,
    *dynamicid.NODES,
    *saa.NODES,
    *guidance.NODES,
    *text_encoder.NODES,
    *fetch.NODES,
]
