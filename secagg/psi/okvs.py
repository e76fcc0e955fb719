"""Oblivious key-value stores: a table that gives each key its value, and shows no key if values are random.

A key is hashed to three places of the table, one in each third, and to 64 bits that choose among dense
entries; its value is the sum (XOR) of the chosen ones. The table is solved by peeling keys that have a place
of their own, then by elimination for what is left, nothing or little. What no key decides is random.

Source: Garimella, Pinkas, Rosulek, Trieu, Yanai 2021, "Oblivious key-value stores and amplification for
private set intersection", section 4.1 (3-hash garbled cuckoo table).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from secagg.errors import UsageError
from secagg.names import RandomSource

Words = NDArray[np.uint64]
"""Values of 128 bits: shape (entries, 2)."""

DENSE = 64
"""Dense entries; with so many, elimination fails with probability below 2**-40."""
SEED_SIZE = 32
_EXPANSION = 1.3
"""Entries for a key; from 1.23 on nearly all keys are peeled (Molloy 2005)."""
_SLACK = 45


def table_length(keys: int) -> int:
    """Return the entries of a table for so many keys, dense ones included."""
    return 3 * _third(keys) + DENSE


def encode(keys: Sequence[bytes], values: Words, *, random: RandomSource = os.urandom) -> tuple[bytes, Words]:
    """Return a seed of 32 bytes and a table in which each key has its value under that seed.

    Args:
        keys: all different.
        values: uint64, shape (len(keys), 2); random to whoever may read the table, or it shows keys.
        random: for the seed and for entries that no key decides.

    Returns:
        The seed; uint64, shape (``table_length(len(keys))``, 2).

    Raises:
        UsageError: two keys are equal.
    """
    if len(set(keys)) < len(keys):
        raise UsageError("two keys of a table are equal")
    table: Words | None = None
    seed = b""
    while table is None:  # With probability 2**-40 a seed serves no table; the next one does.
        seed = random(SEED_SIZE)
        table = _solved(keys, values, seed, random)
    return seed, table


def _solved(keys: Sequence[bytes], values: Words, seed: bytes, random: RandomSource) -> Words | None:
    length = table_length(len(keys))
    table = np.frombuffer(random(16 * length), np.uint64).reshape(length, 2).copy()
    rows = _hashed(keys, seed, _third(len(keys)))
    rounds, core = _peeled(rows.places, length - DENSE)
    if not _eliminate(table, rows, values, core):
        return None
    dense = _dense(table, rows.bits)
    for peeled in reversed(rounds):
        others = rows.places[peeled.rows[:, None], peeled.others]
        found = values[peeled.rows] ^ dense[peeled.rows] ^ table[others[:, 0]] ^ table[others[:, 1]]
        table[peeled.places] = found
    return table


def decode(table: Words, keys: Sequence[bytes], *, seed: bytes) -> Words:
    """Return what the table gives each key: its value, or noise for a key that it was not made with.

    Args:
        table: as ``encode`` gave it.
        keys: any.
        seed: that it was made with.
    """
    rows = _hashed(keys, seed, (len(table) - DENSE) // 3)
    found: Words = np.bitwise_xor.reduce(table[rows.places], axis=1) ^ _dense(table, rows.bits)
    return found


@dataclass(frozen=True)
class _Rows:
    """Of each key: three places, int64, and 64 bits of dense entries."""

    places: NDArray[np.int64]
    bits: NDArray[np.uint64]


@dataclass(frozen=True)
class _Round:
    """Keys that were peeled at once: none of them has the place that another is peeled by.

    Attributes:
        rows: which keys.
        places: the one that each is peeled by.
        others: which two of its three places are the others.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    others: NDArray[np.int64]


_OTHERS = np.array([[1, 2], [0, 2], [0, 1]])


def _third(keys: int) -> int:
    return -(-int(_EXPANSION * keys) // 3) + _SLACK


def _hashed(keys: Sequence[bytes], seed: bytes, third: int) -> _Rows:
    hashes = b"".join(blake3(key, key=seed).digest(32) for key in keys)
    words = np.frombuffer(hashes, np.uint64).reshape(-1, 4)
    places = (words[:, :3] % np.uint64(third)).astype(np.int64) + third * np.arange(3)
    return _Rows(places, words[:, 3].copy())


def _dense(table: Words, bits: NDArray[np.uint64]) -> Words:
    """Return the sum of the dense entries that each key chooses."""
    found = np.zeros((len(bits), 2), np.uint64)
    for bit in range(DENSE):
        chosen = (bits >> np.uint64(bit)) & np.uint64(1)
        found ^= (np.uint64(0) - chosen)[:, None] & table[len(table) - DENSE + bit]
    return found


def _peeled(places: NDArray[np.int64], length: int) -> tuple[list[_Round], NDArray[np.int64]]:
    """Return the rounds of peeling, and the keys that are left."""
    degree = np.bincount(places.ravel(), minlength=length)
    left, rounds = np.arange(len(places)), []
    while len(left):
        alone = degree[places[left]] == 1
        free = alone.any(axis=1)
        if not free.any():
            break
        rows, which = left[free], alone[free].argmax(axis=1)
        rounds.append(_Round(rows, places[rows, which], _OTHERS[which]))
        degree -= np.bincount(places[rows].ravel(), minlength=length)
        left = left[~free]
    return rounds, left


def _eliminate(table: Words, rows: _Rows, values: Words, core: NDArray[np.int64]) -> bool:
    """Solve for the keys that peeling left, over places and dense entries; tell whether there is a way."""
    if not len(core):
        return True
    columns, at = np.unique(rows.places[core], return_inverse=True)
    count, sparse = len(core), len(columns)
    system = np.zeros((count, sparse + DENSE), np.bool_)
    system[np.arange(count)[:, None], at.reshape(count, 3)] = True
    shifts = np.arange(DENSE, dtype=np.uint64)
    system[:, sparse:] = (rows.bits[core][:, None] >> shifts) & np.uint64(1)
    entries = np.concatenate([columns, np.arange(len(table) - DENSE, len(table))])
    right, pivots = values[core].copy(), []
    for row in range(count):
        ones = np.flatnonzero(system[row])
        if not len(ones):
            return False
        pivot = int(ones[0])
        pivots.append(pivot)
        meets = system[:, pivot].copy()
        meets[row] = False
        system[meets] ^= system[row]
        right[meets] ^= right[row]
    # What is not a pivot keeps its random entry; pivots follow.
    system[np.arange(count), pivots] = False
    solved = right.copy()
    for row in range(count):
        solved[row] ^= np.bitwise_xor.reduce(table[entries[system[row]]], axis=0, initial=np.uint64(0))
    table[entries[pivots]] = solved
    return True
