"""Recipes that train the embedded world's models."""
