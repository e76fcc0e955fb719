"""The ten lines of the README, from a cold start: seconds until the first round is opened (target: under 10).

A fresh interpreter runs exactly the block that the README shows, imports included, and the clock stops when
it prints the line of round 1. Not a test: a wall clock judges the machine's load as much as the code; the
CPU seconds beside it are what the work costs.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import facts

ROOT = Path(__file__).parents[1]
RUNS = 3


def block() -> str:
    """Return the README's ten lines, or those of ``examples/ten_lines.py`` while it shows none."""
    pages = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    shown = [page for page in pages if "Federation(" in page]
    return shown[0] if shown else (ROOT / "examples" / "ten_lines.py").read_text("utf-8")


def seconds_to_first_round(script: str) -> tuple[float, float]:
    """Return wall and CPU seconds from starting Python to the line of the first opened round."""
    before = os.times()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "Agg"},
            stdout=subprocess.PIPE,
            text=True,
        ) as running:
            for line in running.stdout or ():
                if line.startswith("round"):
                    break
            else:
                raise SystemExit("the ten lines ended without opening a round")
            spent = time.perf_counter() - start
            running.kill()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, cpu


def main() -> None:
    """Print the median; one run before fills the file cache."""
    print(facts())
    script = block()
    seconds_to_first_round(script)
    walls, cpus = zip(*(seconds_to_first_round(script) for _ in range(RUNS)), strict=True)
    print(
        f"  first opened round, imports included, median of {RUNS}: "
        f"{statistics.median(walls):.1f} s wall (worst {max(walls):.1f}), {statistics.median(cpus):.1f} s CPU"
    )


if __name__ == "__main__":
    main()
