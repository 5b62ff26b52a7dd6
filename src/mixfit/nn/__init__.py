"""Part 2: modules, and the mixed-input network built from them. Independent of tables, files and training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
