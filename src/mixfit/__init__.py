"""mixfit: train one model on table rows together with their photos.

``mixfit.fit`` runs the whole pipeline. Its parts are in ``mixfit.data``, ``mixfit.nn``, ``mixfit.training``,
``mixfit.models`` and ``mixfit.hooks``; the most used ones are also exported here. ``__init__.pyi`` lists the names,
which are loaded on first use (PEP 562): ``import mixfit`` itself loads neither torch nor pandas. Import it before
torch: it limits how long threads of OpenMP spin, unless ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY`` is set."""

import os
import sys

import lazy_loader

# OpenMP threads spin without end while they wait for each other, which on a busy machine wastes most of the time
# (docs/LOG.md). Spinning briefly costs nothing on a quiet one. It is read when torch loads, so later it has no effect.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
