"""Files of tables to frames and back."""
