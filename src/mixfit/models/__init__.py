"""The models that compete for a table with photos."""
