"""Models that compete for a table with photos, and the blend of them that predicts."""
