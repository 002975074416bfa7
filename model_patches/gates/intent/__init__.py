"""Prompt -> graded editing intent."""
