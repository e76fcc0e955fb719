"""CKKS a second time, without SEAL: the ring, its transform, encoding and decryption in Python's integers.

And what tests of CKKS share: a key, silos that encrypt, a coordinator that adds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.parameters import Ring, SumParameters
from secagg.ckks.public import CiphertextSum, check_upload
from secagg.ckks.secret import SecretKey, encrypt
from secagg.payload import Payload

ROUND = hashlib.sha256(b"round").digest()
Integers = NDArray[np.object_]


@lru_cache
def _roots(ring: Ring) -> tuple[Integers, Integers]:
    """Powers of the least primitive root of order 2N modulo q, bit-reversed, and their inverses."""
    n, q = ring.degree, ring.modulus
    any_root = next(
        found for base in range(2, 1000) if pow(found := pow(base, (q - 1) // (2 * n), q), n, q) == q - 1
    )
    least = min(pow(any_root, power, q) for power in range(1, 2 * n, 2))
    bits = n.bit_length() - 1
    order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)]
    powers = [pow(least, power, q) for power in order]
    return np.array(powers, object), np.array([pow(power, -1, q) for power in powers], object)


def forward(ring: Ring, coefficients: Integers) -> Integers:
    """Coefficients to values at the odd powers of the root, in SEAL's order (Longa, Naehrig 2016)."""
    a, (roots, _) = coefficients % ring.modulus, _roots(ring)
    m, t = 1, ring.degree
    while m < ring.degree:
        t //= 2
        pairs = a.reshape(m, 2, t)
        u, v = pairs[:, 0], pairs[:, 1] * roots[m : 2 * m, None]
        a = np.stack(((u + v) % ring.modulus, (u - v) % ring.modulus), axis=1).reshape(-1)
        m *= 2
    return np.asarray(a)


def backward(ring: Ring, values: Integers) -> Integers:
    """Undo ``forward``; coefficients are centred, -(q - 1) / 2 to (q - 1) / 2."""
    a, (_, inverses) = values % ring.modulus, _roots(ring)
    m, t = ring.degree // 2, 1
    while m >= 1:
        pairs = a.reshape(m, 2, t)
        u, v = pairs[:, 0], pairs[:, 1]
        a = np.stack(
            ((u + v) % ring.modulus, (u - v) * inverses[m : 2 * m, None] % ring.modulus), axis=1
        ).reshape(-1)
        m, t = m // 2, 2 * t
    a = a * pow(ring.degree, -1, ring.modulus) % ring.modulus
    return np.asarray(np.where(a > ring.modulus // 2, a - ring.modulus, a))


@lru_cache
def _places(degree: int) -> NDArray[np.int_]:
    """Where slot j stands among the values at w, w**3, w**5, ...: slots are at the powers 3**j."""
    return np.array([(pow(3, j, 2 * degree) - 1) // 2 for j in range(degree // 2)])


def slots_of(ring: Ring, coefficients: Integers, scale: float) -> NDArray[np.complex128]:
    """The slots that a polynomial encodes: its values at the powers 3**j of a complex root of order 2N."""
    n = ring.degree
    twisted = coefficients.astype(np.float64) / scale * np.exp(1j * np.pi * np.arange(n) / n)
    values = np.fft.ifft(twisted) * n  # At w**(2k + 1) for k = 0, 1, ...
    return values[_places(n)]


def coefficients_of(ring: Ring, slots: NDArray[np.float64], scale: float) -> Integers:
    """The integer polynomial whose slots are nearest to ``slots``; in 80 bit floats, where there are any."""
    n = ring.degree
    values = np.zeros(n, np.clongdouble)
    values[_places(n)] = slots
    values[n - 1 - _places(n)] = slots  # Conjugate of a real one.
    turn = -4 * np.arctan(np.longdouble(1)) * np.arange(n) / n
    twisted = np.fft.fft(values) / n * (np.cos(turn) + 1j * np.sin(turn))
    return np.array([int(c) for c in np.rint(twisted.real * scale)], object)


def key_values(key: SecretKey) -> Integers:
    """The key's polynomial, transformed modulo q."""
    degree = int(key._seal.ring.degree)
    return _integers(key.material().content[-16 * degree : -8 * degree])


def halves(chunk: bytes | memoryview) -> tuple[Integers, Integers]:
    """Both polynomials of a chunk of a sum, transformed."""
    words = _integers(bytes(chunk))
    return words[: words.size // 2], words[words.size // 2 :]


def decrypted(ring: Ring, chunk: bytes | memoryview, key: Integers) -> Integers:
    """Coefficients of what a chunk of a sum hides, centred."""
    first, second = halves(chunk)
    return backward(ring, (first + second * key) % ring.modulus)


def _integers(data: bytes) -> Integers:
    return np.array([int(word) for word in np.frombuffer(data, "<u8")], object)


def payload_of(data: bytes) -> Payload:
    return Payload.over("u8", len(data) // 8, memoryview(data))


@dataclass(frozen=True)
class World:
    """Silos that share a key, and a coordinator that adds what it checked."""

    parameters: SumParameters
    round_id: bytes = ROUND

    @cached_property
    def key(self) -> SecretKey:
        return SecretKey.generate(self.parameters.degree)

    def encrypted(self, values: NDArray[np.float64]) -> bytes:
        return b"".join(encrypt(self.key, self.parameters, values, round_id=self.round_id))

    def checked(self, data: bytes) -> Payload:
        payload = payload_of(data)
        check_upload(payload, self.parameters)
        return payload

    def summed(self, uploads: Sequence[bytes]) -> Payload:
        """The sum as a coordinator announces it."""
        total = CiphertextSum(self.parameters)
        for data in uploads:
            total.add(self.checked(data))
        return payload_of(total.payload().buffer()[:].tobytes())
