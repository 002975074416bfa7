"""Face -> features."""
