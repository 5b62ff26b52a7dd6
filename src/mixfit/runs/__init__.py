"""The run folder, and what is done with a finished run."""
