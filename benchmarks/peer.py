"""Public implementations on the same work in the same run, each as a process of its own.

They need environments of their own, and scripts that measure them; neither is part of this repository. Such a
script counts CPU seconds if ``BENCH_CLOCK=cpu``, and prints a Python list for each case, or a table; the
functions below say what it is called with and what it prints.
"""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figures:
    """CPU seconds of one client and of the server, and bytes a parameter that a client uploads."""

    client: float
    server: float
    upload: float


@dataclass(frozen=True)
class PaillierFigures:
    """Values for each second of CPU, and bytes that a value takes when encrypted."""

    library: str
    lanes: int
    encrypt: float
    add: float
    open: float
    bytes_each: float


@dataclass(frozen=True)
class CkksFigures:
    """Seconds of CPU per 1e6 parameters of one upload or sum, bytes a parameter, largest error seen.

    ``encrypt`` includes serialising; ``add`` and ``open`` include reading what was serialised.
    """

    setup: str
    keys: str
    encrypt: float
    add: float
    open: float
    upload: float
    error: float


@dataclass(frozen=True)
class IntersectionFigures:
    """One intersection of two sets: wall seconds of both parties, and bytes between them.

    ``cpu`` seconds, and ``peak`` MiB of the largest process, are of the whole command, its start with it.
    """

    name: str
    seconds: float
    wire: float
    cpu: float
    peak: float


def measure(
    script: Path, python: Path, *, lengths: Iterable[int], silos: Iterable[int]
) -> dict[tuple[int, int, int], Figures]:
    """Return figures of SecAgg+ by (length, silos, dropouts), where every client shares with all others.

    The script is called with lengths and numbers of silos. A list holds length, silos, shares of each secret,
    dropouts, seconds of a client, range of those, of them keys and shares, seconds of the server, of them its
    plain average, bytes a parameter, error, runs.
    """
    rows = _rows(script, python, ",".join(map(str, lengths)), ",".join(map(str, silos)))
    return {
        (int(float(length)), silos, dropouts): Figures(client, server, upload)
        for length, silos, shares, dropouts, client, _, _, server, _, upload, *_ in rows
        if shares == "all"
    }


def measure_paillier(
    script: Path, python: Path, *, bits: int, libraries: Iterable[str]
) -> list[PaillierFigures]:
    """Return figures of Paillier under keys of ``bits``.

    The script is called with the names of libraries. A list holds library, bits of the key, values a
    ciphertext, values a second of encrypting, adding and decrypting, bytes a value, a note.
    """
    return [
        PaillierFigures(library, lanes, encrypt, add, decrypt, size)
        for library, key_bits, lanes, encrypt, add, decrypt, size, *_ in _rows(script, python, *libraries)
        if key_bits == bits
    ]


def measure_ckks(script: Path, python: Path, *, length: int) -> dict[int, list[CkksFigures]]:
    """Return figures of CKKS by the degree of the ring, each of one thread and of vectors that the peer cuts.

    The script is called with the number of parameters. A list holds the set-up in words, keys, threads, how
    vectors are cut, seconds per 1e6 parameters of encrypting, serialising, reading, adding one client and
    decrypting, bytes a parameter, largest error of a sum of five clients.
    """
    found: dict[int, list[CkksFigures]] = defaultdict(list)
    for row in _rows(script, python, str(length)):
        setup, keys, threads, cut, encrypt, write, read, add, decrypt, upload, error = row
        if threads == 1 and cut == "vector":
            degree = int(setup.split()[0].removeprefix("N="))
            figures = CkksFigures(setup, keys, encrypt + write, read + add, read + decrypt, upload, error)
            found[degree].append(figures)
    return found


def measure_filters(script: Path, python: Path, *, length: int) -> CkksFigures:
    """Return figures of a framework whose filters encrypt whole models under CKKS, of degree 8192.

    The script is called with the number of parameters. It prints a table of steps and what they take: seconds
    per 1e6 parameters of a client or of the server, bytes a parameter, the largest error of the mean of five.
    """
    printed = _run(script, python, str(length))
    title = next(line for line in printed if line.startswith("### ")).removeprefix("### ")
    clients = 5  # Of whose mean the error is; other figures here are of sums.
    took = {
        cells[1].strip(): float(cells[2])
        for cells in (line.split("|") for line in printed if line.startswith("| "))
        if cells[1].strip() != "step"
    }
    return CkksFigures(
        # Its scale is that of its set-up, and not printed.
        title.partition(", symmetric")[0].replace("(", "") + " 2^40",
        "symmetric",
        took["client encrypt"] + took["client FOBS serialize"],
        took["server deserialize, per client"] + took["server add (weight 1), per client"],
        took["client deserialize"] + took["client decrypt"],
        took["upload B/param"],
        clients * took["max error of the mean"],
    )


def measure_intersection(command: str, *, size: int) -> IntersectionFigures:
    """Return figures of an intersection of two sets of ``size`` records, half of which are shared.

    ``{size}`` in the command stands for the size. Its last line that begins with ``{`` is JSON: lib; proto
    or ds, if it has several ways; total_s or wall_s; wire_MB; inter and want, which must be equal.
    """
    words = [word.replace("{size}", str(size)) for word in shlex.split(command)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(words, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # Or Popen would wait for it again.
        output.seek(0)
        lines = [line for line in output if line.startswith("{")]
    if process.returncode or not lines:
        raise SystemExit(f"{words[0]} ... ended with {process.returncode} and no figures")
    found = json.loads(lines[-1])
    if found["inter"] != found["want"]:
        raise SystemExit(f"{found['lib']}: not the intersection")
    way = found.get("proto") or found.get("ds")
    return IntersectionFigures(
        found["lib"] if way is None else f"{found['lib']}, {way}",
        found["total_s"] if "total_s" in found else found["wall_s"],
        found["wire_MB"] * 1e6,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1024,
    )


def _rows(script: Path, python: Path, *arguments: str) -> list[Any]:
    printed = _run(script, python, *arguments)
    return [row for line in printed if line.startswith("[") for row in _row(line)]


def _run(script: Path, python: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        [str(python), script.name, *arguments],
        cwd=script.parent,
        env={**os.environ, "BENCH_CLOCK": "cpu"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.splitlines()


def _row(line: str) -> Iterator[Any]:
    # Libraries print lines of a log, too, which begin with a time in brackets.
    with suppress(SyntaxError):
        yield ast.literal_eval(line)
