"""Vertical learning at the sizes of its limits, in one run: regression, then boosted trees.

Each is a command of its own, with options for other sizes: ``vertical_regression`` and ``vertical_trees``.
"""

from __future__ import annotations

import os
import subprocess
import sys

from secagg.hazmat.cores import usable_cores

MEASURED = {"benchmarks.vertical_regression": usable_cores(), "benchmarks.vertical_trees": 1}
"""Module -> threads of BLAS: trees have threads of their own, which those would wait for."""


def main() -> None:
    """Measure and print."""
    for module, threads in MEASURED.items():
        surroundings = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run([sys.executable, "-m", module], env=surroundings, check=True)


if __name__ == "__main__":
    main()
