"""The training doctor: what a watched training showed, and what is wrong with it, in plain language."""
