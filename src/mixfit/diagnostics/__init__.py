"""The training doctor: diagnoses problems of a training in plain language."""
