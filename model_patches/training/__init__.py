"""Training: precision, optimiser, and what the recipes of adapters share."""
