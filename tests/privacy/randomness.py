"""Randomness that tests look at."""

from __future__ import annotations

import os


class Watched:
    """A random source that remembers what it gave."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        self.given.append(os.urandom(size))
        return self.given[-1]
