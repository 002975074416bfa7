"""The embedded model: small files in the real formats, so that the pack runs without downloads."""
