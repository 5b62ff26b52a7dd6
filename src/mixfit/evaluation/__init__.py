"""Scores of models, comparisons and explanations."""
