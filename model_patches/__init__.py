"""Everything below a node, in data-flow order: files, face, encoders, adapters, identity, sip,
inject, training; gates and evaluate stand apart.

Nothing here knows of nodes, model folders or the server. Imports run one way only.
"""
