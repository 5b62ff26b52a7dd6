"""Part 2: own modules and the mixed-input network made of them. Knows nothing of tables, files or training."""
