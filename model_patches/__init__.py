"""Everything below a node, in data-flow order: face, encoders, identity, gates, inject.

Nothing here knows of nodes, model folders or the server. Imports run one way only.
"""
