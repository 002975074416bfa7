"""Features -> Identity."""
