"""Photos: found, decoded, and kept so that each is decoded once."""
