"""CKKS with fixed randomness: a key, uploads and sums that follow from a few bytes, made without SEAL.

SEAL draws its own randomness, and a sum has 64 kB; so a file says how to make what is in it, and the session
opens it. It is made of whole numbers only, so that every machine makes the same bytes.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np

from secagg.ckks.parameters import RINGS, SECRET_MAGIC, SEED_SIZE, Ring
from secagg.ckks.secret import SecretKey, SecretMaterial
from secagg.payload import Payload
from tests.ckks_reference import Integers, forward
from tests.vectors.notation import Json, read

RING = RINGS[4096]
SCALE_BITS = 28
"""Of the parameters that belong to the terms of ``world``."""


def drawn(purpose: str, seed: bytes, size: int) -> bytes:
    """Return SHAKE-256 of the text and the seed."""
    return hashlib.shake_256(purpose.encode() + seed).digest(size)


def words(purpose: str, seed: bytes) -> Integers:
    """Return N numbers modulo q: 8 bytes each, little-endian, reduced."""
    raw = np.frombuffer(drawn(purpose, seed, 8 * RING.degree), "<u8")
    return np.array([int(word) % RING.modulus for word in raw], object)


@cache
def _ternary(seed: bytes) -> Integers:
    """A polynomial with coefficients -1, 0, 1: a byte each, modulo 3, less 1."""
    raw = drawn("key", seed, RING.degree)
    return np.array([byte % 3 - 1 for byte in raw], object)


@cache
def _transformed(seed: bytes, ring: Ring) -> Integers:
    return forward(ring, _ternary(seed))


@cache
def secret(seed: bytes) -> SecretKey:
    """Return the key of a seed."""
    special = replace(RING, modulus=RING.special, special=RING.modulus)
    halves = (_transformed(seed, ring) for ring in (RING, special))
    content = b"".join(_bytes(half) for half in halves)
    return SecretKey.from_material(SecretMaterial(SECRET_MAGIC + RING.degree.to_bytes(8, "big") + content))


def _bytes(numbers: Integers) -> bytes:
    return np.array([int(number) for number in numbers], "<u8").tobytes()


_BITS = 160
"""Behind the point, of cosines; the values of slots have half as many."""


@cache
def _cosines() -> Integers:
    """cos(pi i / N) for i below 2N, times 2^160, to the nearest integer."""
    guard = 2 * _BITS
    one, cosine, angle = 1 << guard, 0, 2  # Of pi / 2.
    while angle < RING.degree:
        cosine, angle = math.isqrt((one + cosine) * one // 2), 2 * angle
    sine = math.isqrt(one * one - cosine * cosine)
    real, imaginary, found = one, 0, []
    for _ in range(2 * RING.degree):
        found.append((real + (one >> _BITS + 1)) >> (guard - _BITS))
        real, imaginary = (
            (real * cosine - imaginary * sine) >> guard,
            (real * sine + imaginary * cosine) >> guard,
        )
    return np.array(found, object)


def encoded(slots: list[tuple[int, float]]) -> Integers:
    """Return the polynomial whose slots are these and else 0: 2/N scale sum(value cos(pi k 3^slot / N))."""
    n = RING.degree
    total, places = np.zeros(n, object), np.arange(n)
    for slot, value in slots:
        exact = Fraction(value) * 2 ** (_BITS // 2)
        assert exact.denominator == 1
        total = total + int(exact) * _cosines()[places * pow(3, slot, 2 * n) % (2 * n)]
    unit = n << (_BITS + _BITS // 2 - SCALE_BITS - 1)
    return np.asarray((total + unit // 2) // unit)


def summed(key: bytes, seed: bytes, slots: list[tuple[int, float]]) -> bytes:
    """Return a sum with these slots: c0 = m + e - c1 s, then c1, each transformed, 8 bytes a word."""
    second = words("c1", seed)
    noise = np.array([byte % 21 - 10 for byte in drawn("noise", seed, RING.degree)], object)
    first = forward(RING, encoded(slots) + noise) - second * _transformed(key, RING)
    return _bytes(first % RING.modulus) + _bytes(second)


def payload(data: bytes) -> Payload:
    """Return words of 8 bytes as a payload."""
    return Payload.over("u8", len(data) // 8, memoryview(data))


def made(recipe: Json) -> bytes:
    """Return the payload that a file describes."""
    if "upload" in recipe:
        seed = read(recipe["upload"])
        data = bytearray(drawn("seed", seed, SEED_SIZE) + _bytes(words("c0", seed)))
    else:
        slots = tuple((slot, float.fromhex(value)) for slot, value in recipe["slots"])
        data = bytearray(_sum(read(recipe["key"]), read(recipe["sum"]), slots))
    for at, part in read(recipe.get("with", [])):
        data[at : at + len(part)] = part
    return bytes(data[: recipe.get("size", len(data))])


@cache
def _sum(key: bytes, seed: bytes, slots: tuple[tuple[int, float], ...]) -> bytes:
    return summed(key, seed, list(slots))
