"""What is looked for in a table before a training: copies, odd values, slipped photos."""
