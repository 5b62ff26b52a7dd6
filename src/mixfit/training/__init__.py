"""Parts 3, 4 and 7: losses, metrics, optimisers, the Learner and its callbacks."""
