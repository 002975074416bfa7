"""Weight files: open, recognise by content, check; where to get the public ones."""
