"""Reference guidance: weights for the reference pictures that a model takes as extra tokens."""
