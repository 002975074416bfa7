"""ID guidance: predictions are moved to where a recogniser sees the person more (EditIDv2)."""
