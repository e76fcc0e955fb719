"""Types that every layer names: who a silo is, what a vector is, where randomness comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

SiloId: TypeAlias = str
"""A silo's name in the roster: 1 to 64 characters of ``[A-Za-z0-9._-]``."""

RandomSource: TypeAlias = Callable[[int], bytes]
"""n -> n fresh uniform bytes. ``os.urandom``; a fixed source only in tests."""

WordBits: TypeAlias = Literal[32, 64]
"""Bits of one entry in the masked domain; the modulus is 2**word_bits."""

IntegerVector: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]
RealVector: TypeAlias = NDArray[np.float64]

APP_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*"
"""The whole of an app's name, ``package.module:function``: what to call for a trainer."""
