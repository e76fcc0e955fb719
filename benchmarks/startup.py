"""Start-up: median of ten runs of ``secagg --help`` (target: under 0.3 s) and of ``import secagg``.

Not a test: a wall clock judges the machine's load as much as the code.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 10
COMMANDS = {
    "secagg --help": [str(Path(sys.executable).with_name("secagg")), "--help"],
    "import secagg": [sys.executable, "-c", "import secagg"],
    "bare interpreter": [sys.executable, "-c", ""],
}


def seconds(command: list[str]) -> float:
    """Return the wall time in seconds of one run of ``command``, which must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print the median of each command; one run before fills the file cache."""
    print(f"{platform.machine()}, Python {platform.python_version()}, median of {RUNS}")
    for name, command in COMMANDS.items():
        seconds(command)
        print(f"  {name:18}{statistics.median(seconds(command) for _ in range(RUNS)):8.3f} s")


if __name__ == "__main__":
    main()
