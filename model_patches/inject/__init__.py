"""Identity + gate -> patched clone of a model."""
