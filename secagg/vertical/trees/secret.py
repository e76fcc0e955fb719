"""The secret half of the gradients' key: encrypting rows, and opening sums that come back.

Only the label party imports this. A key is made for one run and is on no disk.

Source: see ``lattice``.
"""

from __future__ import annotations

import os
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ParameterError, UsageError
from secagg.hazmat.short import errors, ternary
from secagg.names import RandomSource
from secagg.vertical.trees.lattice import (
    MOST_ROWS,
    MOST_SUM,
    ROWS,
    SCALE_BITS,
    SECRETS,
    SEED,
    SENT,
    SENT_BITS,
    STRIDE,
    SUM_BITS,
    PublicKey,
    blocks_of,
)
from secagg.vertical.trees.ring import (
    LIMB_BITS,
    PACKED,
    Integers,
    N,
    carried,
    coefficients,
    packed,
    transform,
    uniform,
)

_SENT_HALF = SENT_BITS // 2
_AT_ONCE = 64
"""Groups that are opened at a time; each takes 0.6 MB."""
_LIMB, _SHIFT = divmod(SCALE_BITS, LIMB_BITS)


class SecretKey:
    """Two ternary secrets, and the public key that they make.

    Args:
        random: fresh uniform bytes.

    Guarantees:
        It refuses to be copied or pickled, and its repr shows nothing.
    """

    __slots__ = ("_points", "_random", "public")

    def __init__(self, random: RandomSource = os.urandom) -> None:
        self._random = random
        self._points = transform(ternary((SECRETS, N), random))
        seed = random(SEED)
        self.public = PublicKey(seed, packed(carried(self._masked(uniform(seed, 1)[0]))))

    def encrypt(self, values: Integers) -> tuple[bytes, NDArray[np.uint8]]:
        """Return what hides the rows.

        Args:
            values: int64, shape (SECRETS, rows); magnitudes of all rows sum to ``MOST_SUM`` at the most.

        Returns:
            The seed, used once, and the ciphertexts, shape (blocks * SECRETS * N * PACKED,).

        Raises:
            ParameterError: too many rows, or a sum could wrap.
        """
        rows = values.shape[1]
        if not 0 < rows <= MOST_ROWS:
            raise ParameterError(f"{rows} rows; 1 to {MOST_ROWS} can be encrypted")
        if (np.abs(values).sum(axis=1) > MOST_SUM).any():
            raise ParameterError(f"a sum of these rows could be beyond {MOST_SUM}")
        seed, blocks = self._random(SEED), blocks_of(rows)
        placed = np.zeros((SECRETS, blocks * ROWS), np.int64)
        placed[:, :rows] = values << _SHIFT
        public = uniform(seed, blocks)
        sent = np.empty((blocks, SECRETS, N, PACKED), np.uint8)
        for block in range(blocks):
            limbs = self._masked(public[block])
            limbs[:, _LIMB, ::STRIDE] += placed[:, block * ROWS : (block + 1) * ROWS]
            sent[block] = packed(carried(limbs))
        return seed, sent.reshape(-1)

    def _masked(self, public: Integers) -> Integers:
        """Return a s + e for each secret, shape (SECRETS, LIMBS, N), of an a of shape (LIMBS, N)."""
        limbs = coefficients(transform(public) * self._points[:, None])
        limbs[:, 0] += errors((SECRETS, N), self._random)
        return limbs

    def open(self, data: NDArray[np.uint8], groups: int) -> Integers:
        """Return sums of rows.

        Args:
            data: as ``EncryptedRows.sums`` made it, in one: shape (groups * GROUP_SIZE,).
            groups: of ``STRIDE`` cells each.

        Returns:
            Shape (SECRETS, groups * STRIDE).
        """
        sent = data.reshape(groups, N + SECRETS * STRIDE, SENT)
        opened = [self._opened(sent[at : at + _AT_ONCE]) for at in range(0, groups, _AT_ONCE)]
        return np.concatenate(opened).transpose(1, 0, 2).reshape(SECRETS, groups * STRIDE)

    def _opened(self, sent: NDArray[np.uint8]) -> Integers:
        """Return the sums of some groups, shape (groups, SECRETS, STRIDE)."""
        words = np.zeros((*sent.shape[:2], 8), np.uint8)
        words[..., :SENT] = sent
        numbers = words.view("<i8")[..., 0]
        first, second = numbers[:, :N], numbers[:, N:].reshape(-1, SECRETS, STRIDE)
        # Limbs of 24 bits times ternary secrets: exact by far (see ``ring.PRODUCTS``).
        halves = np.stack([first & ((1 << _SENT_HALF) - 1), first >> _SENT_HALF], axis=1)
        found = coefficients(transform(halves)[:, None] * self._points[None, :, None])[..., :STRIDE]
        product = found[:, :, 0] + (found[:, :, 1] << _SENT_HALF)
        left = (second - product) & ((1 << SENT_BITS) - 1)
        away = SENT_BITS - SUM_BITS
        opened = ((left + (1 << (away - 1))) >> away) & ((1 << SUM_BITS) - 1)
        signed: Integers = np.where(opened > MOST_SUM, opened - (1 << SUM_BITS), opened)
        return signed

    def __repr__(self) -> str:
        return "SecretKey()"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a secret key is not copied or pickled")
