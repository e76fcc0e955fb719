"""A public SecAgg+ implementation on the same work in the same run, as a process of its own.

It needs an environment of its own and a script that measures it; neither is part of this repository. The
script is called with lengths and numbers of silos, counts CPU seconds if ``BENCH_CLOCK=cpu``, and prints a
Python list for each case: length, silos, shares of each secret, dropouts, seconds of a client, range of
those, of them keys and shares, seconds of the server, of them its plain average, bytes a parameter, error,
runs.
"""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figures:
    """CPU seconds of one client and of the server, and bytes a parameter that a client uploads."""

    client: float
    server: float
    upload: float


def measure(
    script: Path, python: Path, *, lengths: Iterable[int], silos: Iterable[int]
) -> dict[tuple[int, int, int], Figures]:
    """Return figures by (length, silos, dropouts), where every client shares with all others."""
    command = [str(python), script.name, ",".join(map(str, lengths)), ",".join(map(str, silos))]
    done = subprocess.run(
        command,
        cwd=script.parent,
        env={**os.environ, "BENCH_CLOCK": "cpu"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    rows = [ast.literal_eval(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {
        (int(float(length)), silos, dropouts): Figures(client, server, upload)
        for length, silos, shares, dropouts, client, _, _, server, _, upload, *_ in rows
        if shares == "all"
    }
