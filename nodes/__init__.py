"""What the user sees: thin V3 nodes, one file per stage. Each stage file ends in NODES."""

from . import face, gates, identity, text_encoder, vfa

NODES = [*face.NODES, *identity.NODES, *gates.NODES, *vfa.NODES, *text_encoder.NODES]
