"""One file per adapter format: what a file holds -> an encoder and attention layers."""
