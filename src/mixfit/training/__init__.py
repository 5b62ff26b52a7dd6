"""Parts 3, 4 and 7: losses, metrics, optimisers, the Learner and its callbacks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
