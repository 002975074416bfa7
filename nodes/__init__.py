"""What the user sees: thin V3 nodes, one file per stage. Each stage file ends in NODES."""

from . import cag, face, flexid, flexip, gates, identity, sip, text_encoder, vfa

NODES = [
    *face.NODES,
    *identity.NODES,
    *gates.NODES,
    *cag.NODES,
    *sip.NODES,
    *vfa.NODES,
    *flexid.NODES,
    *flexip.NODES,
    *text_encoder.NODES,
]
