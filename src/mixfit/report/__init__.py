"""The two HTML pages: what a training run achieved, and what a table holds; each is one file that opens offline."""
