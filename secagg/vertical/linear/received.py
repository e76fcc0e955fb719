"""Checks of what another party sent, before anything is computed with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultySilo
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.vertical.lattice.ciphertexts import PLAIN
from secagg.vertical.lattice.product import Layout, Masked
from secagg.vertical.lattice.ring import PRIMES, Limbs

LARGEST_NUMBER = 2.0**200
"""No product of gradients comes near, and products of such numbers are finite."""


def numbers(sender: SiloId, given: Sequence[float], count: int) -> tuple[float, ...]:
    """Return ``count`` numbers of a size with which one can compute.

    Raises:
        FaultySilo: there are others.
    """
    # Written so that NaN is refused.
    if len(given) != count or not all(abs(number) <= LARGEST_NUMBER for number in given):
        raise FaultySilo(sender, f"it sent other numbers than the {count} finite ones that are due")
    return tuple(given)


def residues(sender: SiloId, payload: Payload, *shapes: tuple[int, ...]) -> list[Limbs]:
    """Return arrays of residues, the primes along the last axis but one, that lie behind each other.

    Raises:
        FaultySilo: another type or size, or a residue is not below its prime.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if payload.dtype != "u4" or payload.length != sum(sizes):
        raise FaultySilo(sender, f"it sent {payload.length} words where {sum(sizes)} of 32 bits are due")
    parts = np.split(payload.array(), np.cumsum(sizes)[:-1])
    limbs = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    for each in limbs:
        if (each >= np.array(PRIMES[: each.shape[-2]], np.uint32)[:, None]).any():
            raise FaultySilo(sender, "it sent a residue that is not below its modulus")
    return limbs


def masked(sender: SiloId, payload: Payload, layout: Layout, columns: int) -> Masked:
    """Return masked products.

    Raises:
        FaultySilo: see ``residues``.
    """
    firsts, seconds = residues(sender, payload, *layout.masked_shapes(columns))
    return Masked(firsts, seconds)


def words(sender: SiloId, payload: Payload, count: int) -> NDArray[np.uint64]:
    """Return ``count`` words of 64 bits.

    Raises:
        FaultySilo: another type or size.
    """
    if payload.dtype != "u8" or payload.length != count:
        raise FaultySilo(sender, f"it sent {payload.length} words where {count} of 64 bits are due")
    array: NDArray[np.uint64] = payload.array()
    return array


def plaintexts(sender: SiloId, payload: Payload, count: int) -> NDArray[np.uint64]:
    """Return ``count`` integers modulo t.

    Raises:
        FaultySilo: see ``words``, or one is not below t.
    """
    array = words(sender, payload, count)
    if (array >= PLAIN).any():
        raise FaultySilo(sender, "it opened a value that is not below the modulus")
    return array
