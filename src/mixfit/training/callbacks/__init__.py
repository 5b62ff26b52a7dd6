"""Callbacks: everything around the training loop that is not the loop."""
