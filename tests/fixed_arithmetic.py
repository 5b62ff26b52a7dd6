"""One arithmetic for tests and guide on every x86-64 machine: one thread, and the instructions that all of them have.

Other instructions and other numbers of threads add in another order. What a training gives then differs beyond the
last bits, as it does with another seed; ``benchmarks/check_machines.py`` runs the tests that train in such ways. A
variable that is set already stays. Imported before torch, which reads them when it loads."""

import os
import platform

FIXED = {"OMP_NUM_THREADS": "1"}
if platform.machine().lower() in ("x86_64", "amd64"):
    FIXED |= {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    }


def fix_arithmetic() -> None:
    """Set what is not set, for this process and those that it starts."""
    for name, value in FIXED.items():
        os.environ.setdefault(name, value)
