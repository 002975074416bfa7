"""Figures on generated pictures: tensors and plain values in, numbers out."""
