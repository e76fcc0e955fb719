"""Attack ``seed_bits``: guess, forecast or repeat what masks are made from.

A generator that uses 28 bits of its key gives masks that look perfectly uniform, so statistics alone prove
nothing. Here the attacker searches small key spaces, flips single bits to find those that do not count, works
out the state of a linear generator from words it knows, and makes keys itself in the hope of the same ones.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from secagg.errors import MalformedMessage
from secagg.hazmat import agreement, prg
from secagg.hazmat.agreement import AgreementKey, seal, unseal
from secagg.hazmat.prg import add_streams
from secagg.masking import transcript
from secagg.masking.silo import MaskingSilo
from secagg.messages import AdvertiseKeys, RoundOpened
from secagg.survivors import Locks
from secagg.terms import training_digest
from tests.adversary import reference

KEY = bytes(range(32))
PEER = AgreementKey.from_private_bytes(hashlib.sha256(b"peer").digest())
ROUND = hashlib.sha256(b"round").digest()
# X25519 sets these five bits of a private key itself (RFC 7748, section 5); the other 251 are the key.
CLAMPED = {0, 1, 2, 254, 255}


def stream(key: bytes, length: int = 8) -> NDArray[Any]:
    mask = np.zeros(length, np.uint32)
    add_streams(mask, plus=[key], threads=1)
    return mask


def flipped(key: bytes, bit: int) -> bytes:
    return (int.from_bytes(key, "little") ^ 1 << bit).to_bytes(len(key), "little")


def from_seed(seed: bytes) -> bytes:
    return stream(transcript.self_stream(seed, ROUND, "north")).tobytes()


def from_mask_key(drawn: bytes) -> bytes:
    own = AgreementKey.generate(lambda count: drawn[:count])
    key = transcript.pair_stream(own, PEER.public, ROUND, lower="north", higher="south")
    return stream(key).tobytes()


def idle_bits(made: Callable[[bytes], bytes]) -> set[int]:
    """Attack: find the bits of a secret that do not change what is made from it."""
    return {bit for bit in range(256) if made(flipped(KEY, bit)) == made(KEY)}


def boxes_opened() -> int:
    """Attack: open a box with a key that is right but for one bit."""
    box, opened = seal(KEY, b"share"), 0
    for bit in range(256):
        with suppress(MalformedMessage):
            opened += unseal(flipped(KEY, bit), box) == b"share"
    return opened


def collisions(made: Callable[[bytes], bytes], tries: int = 2048) -> int:
    """Attack: search for two secrets with one result; among 2**20 possible ones two are found at once."""
    return tries - len({made(os.urandom(32)) for _ in range(tries)})


def undone(word: int) -> int:
    """Return the word of state that a Mersenne twister turned into this output."""
    word ^= word >> 18
    word ^= word << 15 & 0xEFC60000
    shifted = word
    for _ in range(5):
        shifted = word ^ (shifted << 7 & 0x9D2C5680)
    word = shifted
    for _ in range(3):
        shifted = word ^ shifted >> 11
    return shifted & 0xFFFFFFFF


def forecast() -> bool:
    """Attack: 624 words of a mask are known, because the model has zeros there; say what the next are."""
    words = [int(word) for word in stream(KEY, 724)]
    twister = random.Random()  # noqa: S311 - the attacker's
    twister.setstate((3, (*map(undone, words[:624]), 624), None))
    return [twister.getrandbits(32) for _ in range(100)] == words[624:]


def looks_uniform(key: bytes) -> bool:
    """Bits and bytes of 250,000 words, about six standard deviations each way."""
    data = stream(key, 250_000).view(np.uint8)
    bits = np.unpackbits(data).reshape(-1, 32).mean(axis=0)
    chi_square = np.sum((np.bincount(data, minlength=256) - 3906.25) ** 2) / 3906.25
    return bool(np.all(np.abs(bits - 0.5) < 6 * 0.5 / 500) and 140 < chi_square < 390)


def advertised() -> AdvertiseKeys:
    """Make a silo with the randomness that it takes by itself, and return its first message."""
    terms = reference.terms(32)
    silo = MaskingSilo(
        "west",
        identity=reference.identity("west"),
        roster=reference.roster(),
        terms=terms,
        vector=reference.vector("west", 32),
        locks=Locks(),
        data_set="default",
    )
    reply = silo.receive(RoundOpened(training_digest(terms), 1, 60.0)).output
    assert isinstance(reply, AdvertiseKeys)
    return reply


def test_seed_bits() -> None:
    reference.published()
    assert looks_uniform(KEY), "statistics"
    assert not forecast(), "the mask was forecast"
    assert idle_bits(lambda key: stream(key).tobytes()) == set(), "idle bits of a stream key"
    assert idle_bits(from_seed) == set(), "idle bits of a seed"
    assert idle_bits(from_mask_key) == CLAMPED, "idle bits of a mask key"
    assert boxes_opened() == 0, "idle bits of a box key"
    assert collisions(lambda key: stream(key).tobytes()) == 0, "few streams"
    assert collisions(from_seed) == 0, "few seeds"
    assert collisions(from_mask_key) == 0, "few mask keys"

    victim, attacker = advertised().bundle, advertised().bundle
    fresh = {victim.box, victim.mask, victim.nonce, attacker.box, attacker.mask, attacker.nonce}
    assert len(fresh) == 6, "keys were made a second time"

    # Known answers: all 256 bits of what was agreed on, and of the key, reach the mask.
    agreed = reference.x25519(KEY, PEER.public)
    key = reference.hkdf(agreed, reference.framed("pairwise mask", ROUND, "north", "south", 32))
    assert from_mask_key(KEY) == reference.stream(key, 8).tobytes(), "known answer of a mask key"
    assert stream(KEY, 1000).tobytes() == reference.stream(KEY, 1000).tobytes(), "known answer of a stream"


class FromGenerator:
    """A stream that looks like one and comes from a generator for simulations."""

    def __init__(self, seed: bytes) -> None:
        self._random = random.Random(seed)  # noqa: S311 - that is the mutant

    def update_into(self, data: memoryview, buffer: memoryview) -> None:
        buffer[: len(data)] = self._random.randbytes(len(data))


encryptor = prg._encryptor
exchange = agreement._exchange
self_stream = transcript.self_stream
initialise = MaskingSilo.__init__


def bits(key: bytes, count: int) -> bytes:
    """``key`` with all but its lowest ``count`` bits lost."""
    return (int.from_bytes(key, "little") & (1 << count) - 1).to_bytes(32, "little")


def half(key: bytes) -> bytes:
    """A key of 128 bits, in which every bit of 256 counts."""
    return hashlib.sha256(key).digest()[:16]


def with_fixed_seed(silo: MaskingSilo, *arguments: Any, **named: Any) -> None:
    initialise(silo, *arguments, **named, random=reference.Tape("42"))


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.hazmat.prg._encryptor", lambda _, span: encryptor(KEY, span), "idle bits of a stream key"),
        ("secagg.hazmat.prg._encryptor", lambda k, s: encryptor(bits(k, 28), s), "idle bits of a stream key"),
        ("secagg.hazmat.prg._encryptor", lambda k, s: encryptor(bits(k, 32), s), "idle bits of a stream key"),
        (
            "secagg.hazmat.prg._encryptor",
            lambda k, s: encryptor(bits(k, 255), s),
            "idle bits of a stream key",
        ),
        ("secagg.hazmat.prg._encryptor", lambda key, span: FromGenerator(key), "forecast"),
        ("secagg.hazmat.prg._encryptor", lambda k, s: encryptor(half(k) * 2, s), "known answer"),
        ("secagg.masking.transcript.self_stream", lambda k, r, s: self_stream(bits(k, 28), r, s), "a seed"),
        ("secagg.hazmat.agreement._exchange", lambda key, peer: bits(exchange(key, peer), 16), "few mask"),
        ("secagg.hazmat.agreement._exchange", lambda key, peer: bits(exchange(key, peer), 28), "known ans"),
        (
            "secagg.hazmat.agreement.AgreementKey.generate",
            lambda source: AgreementKey.from_private_bytes(source(4) + bytes(28)),
            "idle bits of a mask key",
        ),
        ("secagg.hazmat.agreement._cipher", lambda _: AESGCM(KEY), "idle bits of a box key"),
        ("secagg.masking.silo.MaskingSilo.__init__", with_fixed_seed, "a second time"),
    ],
)
def test_seed_bits_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, found: str) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_seed_bits()


def test_a_generator_of_28_bits_looks_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: why statistics are the least of the checks above."""
    monkeypatch.setattr("secagg.hazmat.prg._encryptor", lambda key, span: encryptor(bits(key, 28), span))
    assert looks_uniform(KEY)
