"""What each column is, and from its cells to arrays."""
