"""Part 1: from a table and photos to batches ``(xb, yb)``."""
