"""Looks for marked secrets in whatever a run left behind, in every form in which they could be written."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LEAST = 12
"""Bytes of the shortest form that is looked for; shorter ones would be found by chance."""


@dataclass(frozen=True)
class Mark:
    """A secret.

    Attributes:
        what: it is, and whose.
        value: its bytes.
        homes: files that may hold it, or folders of such files.
    """

    what: str
    value: bytes
    homes: tuple[Path, ...] = ()


def forms(value: bytes) -> Iterator[bytes]:
    """Yield ``value`` as a program would write it."""
    yield value
    yield value.hex().encode()
    yield value.hex().upper().encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):  # Where in a longer text it begins.
            text = encode(bytes(shift) + value)
            yield text[(0, 2, 3)[shift] : len(text) - (0 if (shift + len(value)) % 3 == 0 else 4)]
    yield ", ".join(map(str, value)).encode()
    yield ",".join(map(str, value)).encode()
    shown = repr(value)[2:-1]
    yield shown.encode()
    yield shown.replace("\\", "\\\\").encode()
    yield str(int.from_bytes(value, "big")).encode()
    yield str(int.from_bytes(value, "little")).encode()


def found(marks: Iterable[Mark], files: Mapping[Path, bytes]) -> list[str]:
    """Return where which mark is that should not be there."""
    patterns: dict[bytes, list[tuple[bytes, Mark]]] = {}
    for mark in marks:
        for form in set(forms(mark.value)):
            if len(form) >= LEAST:
                patterns.setdefault(form[:LEAST], []).append((form, mark))
    wanted = np.zeros(1 << 24, bool)
    wanted[[int.from_bytes(start[:3], "little") for start in patterns]] = True
    hits = []
    for path, content in files.items():
        data = np.frombuffer(content, "u1").astype("u4")
        for start in np.flatnonzero(wanted[data[:-2] | data[1:-1] << 8 | data[2:] << 16]).tolist():
            for form, mark in patterns.get(content[start : start + LEAST], ()):
                # Most that begin so are something else: bytes are compared first, which is quick.
                if content.startswith(form, start) and not any(map(path.is_relative_to, mark.homes)):
                    hits.append(f"{mark.what} is in {path}")
    return sorted(set(hits))


def contents(*folders: Path) -> dict[Path, bytes]:
    """Return all files."""
    return {
        path: path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()
    }


def memory(pid: int) -> Iterator[bytes]:
    """Yield what a process can write to, piece by piece, and its mapped files that have no name."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    file = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for line in maps:
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) r(w?).*?(\(deleted\))?$", line)
            if area is None or not (area[3] or area[4]):
                continue
            start, end = int(area[1], 16), int(area[2], 16)
            try:
                yield os.pread(file, end - start, start)
            except OSError:  # A reservation, or gone meanwhile.
                continue
    finally:
        os.close(file)


def found_in_memory(marks: Iterable[Mark], pid: int) -> list[str]:
    """Return which marks are in the memory of a process, as they are."""
    # However a value lies among words of memory, some are whole parts of it: one that is rare is looked up.
    patterns: dict[int, set[tuple[int, Mark]]] = {}
    for mark in marks:
        if len(mark.value) >= LEAST:
            for shift in range(4):
                parts = {at: mark.value[at : at + 4] for at in range(shift, len(mark.value) - 3, 4)}
                start = max(parts, key=lambda at: len(set(parts[at])))
                patterns.setdefault(int.from_bytes(parts[start], "little"), set()).add((start, mark))
    wanted = np.zeros(1 << 24, bool)
    wanted[[word & 0xFFFFFF for word in patterns]] = True
    hits = set()
    for piece in memory(pid):
        words = np.frombuffer(piece, "<u4", len(piece) // 4)
        for at in np.flatnonzero(wanted[words & 0xFFFFFF]).tolist():
            for start, mark in patterns.get(int(words[at]), ()):
                if 4 * at >= start and piece.startswith(mark.value, 4 * at - start):
                    hits.add(mark.what)
    return sorted(hits)
