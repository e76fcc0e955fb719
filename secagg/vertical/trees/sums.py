"""Histograms of gradients that nobody here can read: rows of ciphertexts added up cell by cell.

The row i of a ciphertext stands at coefficient 8 i. Times the polynomial that has X^(c - 8 i) for each row
i whose cell is c of eight neighbouring ones, the product has the sums of these cells at its coefficients 0
to 7, and what is at others is not sent. That is one product for eight cells and 512 rows, of a polynomial
of 0 and 1 (or -1) and of fifteen limbs; it is made, and added over all ciphertexts, at the points of the
transform.

What leaves hides how it was made from the owner of the key: it carries a fresh encryption of zero, and noise
beside which that of the sum is nothing (``check_hiding``).

Source: after the histograms of Cheng et al., "SecureBoost", IEEE Intelligent Systems 2021, algorithm 1; see
``lattice``.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage, ParameterError
from secagg.hazmat.cores import usable_cores
from secagg.hazmat.short import ERROR_VARIANCE
from secagg.names import RandomSource
from secagg.vertical.trees.cells import Binned
from secagg.vertical.trees.lattice import (
    FLOOD_BITS,
    MOST_ROWS,
    ROWS,
    SECRETS,
    SENT,
    SENT_BITS,
    STRIDE,
    PublicKey,
    blocks_of,
)
from secagg.vertical.trees.ring import (
    HALF,
    LIMBS,
    PACKED,
    N,
    Points,
    carried,
    coefficients,
    rounded,
    transform,
    transform_folded,
    uniform,
    unpacked,
)

HIDING_BITS = 40
"""All sums of a run together tell how they were made with an advantage of 2^-40 at most."""
GROUP_SIZE = (N + SECRETS * STRIDE) * SENT
"""Bytes that are sent for eight cells."""
_AT_ONCE = 1024
"""Products that one thread makes before it adds them; each takes 32 KiB, twice."""


def groups_of(cells: int) -> int:
    """Return how many groups of neighbouring cells there are."""
    return -(-cells // STRIDE)


def ciphertext_bytes(rows: int) -> int:
    """Return the bytes of the ciphertexts of ``rows`` rows."""
    return blocks_of(rows) * SECRETS * N * PACKED


def check_rows(rows: int) -> None:
    """Check that products of so many rows come out exactly.

    Raises:
        ParameterError: they do not.
    """
    if rows > MOST_ROWS:
        raise ParameterError(f"{rows} rows; trees over encrypted sums take at most {MOST_ROWS}")


def check_hiding(binned: Binned, nodes: int) -> None:
    """Check that noise hides how sums were made.

    A sum's own noise has the variance of as many errors as rows are in its group, and of those of an
    encryption of zero. To find it in uniform noise of width 2^74 has on average the ratio of both for
    advantage.

    Args:
        binned: of this party.
        nodes: of which sums may leave in one run.

    Raises:
        ParameterError: too many rows, or sums.
    """
    rows = binned.bins.shape[1]
    check_rows(rows)
    if not binned.cells.count:
        return
    counts = binned.counts(np.arange(rows))
    groups = groups_of(binned.cells.count)
    most = int(np.pad(counts, (0, groups * STRIDE - len(counts))).reshape(groups, STRIDE).sum(axis=1).max())
    deviation = math.sqrt(ERROR_VARIANCE * (most + 2 * N + 1))
    values = nodes * groups * STRIDE * SECRETS
    if math.log2(values * deviation) > FLOOD_BITS - HIDING_BITS:
        raise ParameterError(
            f"{values:,} sums of up to {rows:,} rows are too many for noise to hide how they were made: "
            "take fewer trees, less depth or fewer bins"
        )


class EncryptedRows:
    """Gradients and Hessians of the rows of one node, as they came.

    Args:
        seed: of what is public of them, 32 bytes.
        data: the ciphertexts.
        rows: how many.

    Raises:
        MalformedMessage: another size, or a coefficient that is not below the modulus.
    """

    def __init__(self, seed: bytes, data: NDArray[np.uint8], rows: int) -> None:
        if data.dtype != np.uint8 or data.size != ciphertext_bytes(rows):
            raise MalformedMessage(f"the bytes are no ciphertexts of {rows} rows")
        blocks = blocks_of(rows)
        sent = data.reshape(blocks, SECRETS, N, PACKED)
        public = uniform(seed, blocks)
        # The points come first, since there rows are multiplied as matrices.
        self._points: Points = np.empty((HALF, blocks, (1 + SECRETS) * LIMBS), np.complex128)
        for block in range(blocks):
            limbs = np.concatenate([public[block][None], unpacked(sent[block])]).reshape(-1, N)
            self._points[:, block] = transform(limbs).T
        self._blocks = blocks

    def sums(
        self,
        binned: Binned,
        key: PublicKey,
        *,
        random: RandomSource,
        threads: int | None = None,
    ) -> NDArray[np.uint8]:
        """Return the histograms of these rows.

        Args:
            binned: the columns, of the same rows.
            key: of the ciphertexts' owner.
            random: fresh uniform bytes, asked for by several threads.
            threads: at most; None for one for each usable core.

        Returns:
            Shape (groups, GROUP_SIZE).
        """
        groups = groups_of(binned.cells.count)
        workers = usable_cores() if threads is None else threads
        step = max(1, min(_AT_ONCE // self._blocks, -(-groups // workers)))
        sent = np.empty((groups, GROUP_SIZE), np.uint8)

        def work(first: int) -> None:
            last = min(first + step, groups)
            selected = transform_folded(selection(binned, first, last, self._blocks))
            totals = np.matmul(selected.transpose(2, 0, 1), self._points)
            for group in range(first, last):
                sent[group] = hidden(totals[:, group - first].T, key, random)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(0, groups, step)))  # The list raises what a thread raised.
        return sent

    def __repr__(self) -> str:
        return f"EncryptedRows({self._blocks} ciphertexts)"


def selection(binned: Binned, first: int, last: int, blocks: int) -> Points:
    """Return the polynomials that pick the rows of each cell of the groups ``first`` to ``last`` - 1.

    Returns:
        Shape (last - first, blocks, HALF), folded.
    """
    found: Points = np.zeros((last - first, blocks, HALF), np.complex128)
    parts = found.view(np.float64).reshape(-1)
    inside = (binned.cells.lasts >= first * STRIDE) & (binned.cells.starts < last * STRIDE)
    block, place = np.divmod(np.arange(binned.bins.shape[1]), ROWS)
    for column in np.flatnonzero(inside):
        cell = binned.cells.starts[column] + binned.bins[column]
        group, within = np.divmod(cell, STRIDE)
        taken = (group >= first) & (group < last)
        power = (within - STRIDE * place)[taken]
        sign = np.where(power < 0, -1.0, 1.0)  # X^N is -1.
        power %= N
        polynomial = (group[taken] - first) * blocks + block[taken]
        upper, at = np.divmod(power, HALF)
        parts[(polynomial * HALF + at) * 2 + upper] = sign
    return found


def hidden(total: Points, key: PublicKey, random: RandomSource) -> NDArray[np.uint8]:
    """Return one product, with a fresh encryption of zero added and without what is not wanted.

    Args:
        total: values of its limbs, shape ((1 + SECRETS) * LIMBS, HALF).
        key: of its owner.
        random: fresh uniform bytes.

    Returns:
        Shape (GROUP_SIZE,).
    """
    zero, first, second = key.zero(random)
    limbs = coefficients(total + zero).reshape(1 + SECRETS, LIMBS, N)
    limbs[0, 0] += first
    kept = limbs[1:, :, :STRIDE] + second.transpose(1, 0, 2)
    upper = [rounded(carried(limbs[0]), SENT_BITS), rounded(carried(kept), SENT_BITS).reshape(-1)]
    words = np.concatenate(upper).astype("<i8")
    return words.view(np.uint8).reshape(-1, 8)[:, :SENT].reshape(-1)
