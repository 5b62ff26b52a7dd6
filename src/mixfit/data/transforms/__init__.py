"""Transforms of whole batches."""
