"""IBench on the user's own model: which pictures, how they are painted, what they show together."""
