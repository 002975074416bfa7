"""Photo -> Face: detection, choice, alignment, parsing."""
