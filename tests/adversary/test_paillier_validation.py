"""Attack ``paillier_validation``: keys that can be broken, numbers that are no ciphertext.

A modulus that is small, prime or a power can be factored, and a ciphertext that shares a factor with it gives
the factor away. What carries no obfuscator can be read by everybody. A silo that sends such a number in a
round, under its own signature, is named. And one that is asked for the same vector in a second attempt uses
no obfuscator of the first again: who saw both would know what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz

import secagg.paillier.ciphertexts as product
from secagg import wire
from secagg.encrypted import transcript
from secagg.errors import FaultySilo, MalformedMessage, ParameterError, RoundAborted
from secagg.messages import EncryptedInput, RoundOpened, SignedUpload, TrainingOpened
from secagg.paillier.obfuscators import Pool
from secagg.paillier.params import check_bits
from secagg.paillier.public import MAGIC, PublicKey
from secagg.paillier.silo import PaillierCipher
from secagg.payload import Payload
from secagg.scheme import Scheme
from secagg.terms import training_digest
from tests.contract import Contract
from tests.counts import count
from tests.federations import PAILLIER, THRESHOLD_PAILLIER, Federation
from tests.paillier_keys import shared_key, stream

N, SILO = 4, "north"
SECRET = shared_key()
KEY = SECRET.public
POOL = Pool(KEY, random=stream("validation"))
CASES = count(reduced=300, full=10_000)
SENT = 30
"""Numbers that are sent in a round, which takes longer."""


def broken_moduli(draw: Random) -> Iterator[int]:
    """Yield moduli that an attacker factors, or that encrypt nothing."""
    p, q = SECRET.primes()
    yield from (15, 0, 1, -int(KEY.n), p * p, p, p * (q >> 512))
    prime = int(gmpy2.next_prime(draw.getrandbits(2048) | 1 << 2047))
    yield from (prime, prime * 3, int(gmpy2.next_prime(1 << 1023)) ** 2)
    while True:
        small = draw.choice((2, 3, 5, 7, 251, 65521))
        yield draw.choice(
            (
                draw.getrandbits(2048) << 1,  # Even.
                draw.getrandbits(draw.randrange(8, 2047)) | 1,  # Short.
                (draw.getrandbits(2047 - small.bit_length()) | 1 << 2046 - small.bit_length()) * small,
            )
        )


def no_ciphertexts(draw: Random) -> Iterator[bytes]:
    """Yield what is no ciphertext, or one that everybody reads."""
    n, size = int(KEY.n), KEY.ciphertext_size
    p, q = SECRET.primes()
    yield from (number.to_bytes(size, "big") for number in (0, 1, n, n * n, n * n - n, n + 1, p, q, p * p))
    yield (b"\xff" * size)
    while True:
        number = draw.choice(
            (
                draw.randrange(n) * n + 1,  # Any plaintext, without an obfuscator.
                draw.randrange(n) * n,
                draw.randrange(1, q) * p,
                draw.randrange(1, n * q) * p % (n * n),
                draw.randrange(n * n, 1 << 8 * size),
            )
        )
        yield number.to_bytes(size, "big")


def accepted_keys() -> list[int]:
    draw, found = Random("keys"), list[int]()  # noqa: S311 - the attacker's
    for _, modulus in zip(range(CASES), broken_moduli(draw), strict=False):
        size = max(1, (modulus.bit_length() + 7) // 8)
        try:
            PublicKey(modulus)
            found.append(modulus)
        except ParameterError:
            pass
        try:
            if PublicKey.from_bytes(MAGIC + b"\0" + abs(modulus).to_bytes(size, "big")).n != KEY.n:
                found.append(modulus)
        except MalformedMessage:
            pass
    return found


def accepted_ciphertexts() -> list[bytes]:
    draw, found = Random("ciphertexts"), list[bytes]()  # noqa: S311 - the attacker's
    whole = b"".join(product.encrypt(np.ones((3, 8), np.uint8), POOL))
    assert len(product.read(whole, KEY)) == 3
    for _, bad in zip(range(CASES), no_ciphertexts(draw), strict=False):
        cut = draw.choice((bad, bad[:-1], bad + b"\0")) if draw.random() < 0.1 else bad
        for data in (cut, whole + cut):  # Alone, and behind good ones.
            try:
                product.read(data, KEY)
            except MalformedMessage:
                continue
            found.append(data)
    return found


def sent_unnamed() -> list[bytes]:
    """Attack: let a silo sign and send what is no ciphertext; return what it was not named for."""
    contract = Contract(PAILLIER, EncryptedInput)
    federation, found = contract.federation(N), []
    for bad in islice(no_ciphertexts(Random("sent")), SENT):  # noqa: S311 - the attacker's
        coordinator: Any = contract.coordinator(federation)
        coordinator.open(0.0)
        numbers = Payload.over("u1", len(bad), memoryview(bad))
        fields = transcript.upload_fields(federation.adder, coordinator.round_id, SILO, numbers.digest, None)
        signature = federation.identities[SILO].sign(transcript.UPLOAD, *fields)
        upload = SignedUpload(numbers.digest, None, signature)
        try:
            coordinator.receive(SILO, EncryptedInput(coordinator.round_id, upload, numbers))
        except FaultySilo as fault:
            if fault.silo == SILO:
                continue
        except RoundAborted:
            pass
        found.append(bad)
    return found


def obfuscators(scheme: Scheme, attempts: int) -> list[set[mpz]]:
    """Return what hides one vector of a silo, by attempt: modulo n nothing else is left of a ciphertext."""
    federation, found = Federation(N, scheme=scheme), []
    silo, terms, key = federation.silos[SILO], federation.terms, federation.adder.public
    for attempt in range(1, attempts + 1):
        silo.deliver(wire.encode(TrainingOpened(terms, 60.0)))
        reply = silo.deliver(wire.encode(RoundOpened(training_digest(terms), attempt, 60.0)))
        assert reply is not None
        assert reply[1] is not None
        data = bytes(reply[1][: federation.adder.total.size])
        found.append({ciphertext % key.n for ciphertext in product.read(data, key)})
    assert federation.work[SILO].trained == 1, "the vectors are not the same"
    return found


def test_two_attempts_share_no_ciphertext() -> None:
    for scheme in (PAILLIER, THRESHOLD_PAILLIER):
        first, second = obfuscators(scheme, 2)
        assert first
        assert not first & second, "an obfuscator is used again"


def test_paillier_validation() -> None:
    assert accepted_keys() == [], "a key is taken that can be broken"
    assert accepted_ciphertexts() == [], "a number is taken that is no ciphertext"
    assert sent_unnamed() == [], "a silo is not named"
    test_two_attempts_share_no_ciphertext()


def only_size(n: mpz) -> None:
    check_bits(n.bit_length())


def not_prime(n: mpz) -> None:
    check_bits(n.bit_length())
    if gmpy2.is_prime(n):
        raise ParameterError("prime")


def reading(checks: Callable[[mpz], bool]) -> Any:
    def read(data: bytes, key: PublicKey) -> list[mpz]:
        size = key.ciphertext_size
        found = [mpz.from_bytes(data[at : at + size], "big") for at in range(0, len(data), size)]
        if len(data) % size or not all(map(checks, found)):
            raise MalformedMessage("no ciphertext")
        return found

    return read


_encrypt = PaillierCipher.encrypt


def kept(self: PaillierCipher, vector: Any, **named: Any) -> Payload:
    """``PaillierCipher.encrypt`` that keeps an upload for the next attempt."""
    upload: Payload = self.__dict__.setdefault("upload_kept", _encrypt(self, vector, **named))
    return upload


def first_of_all(self: Pool) -> Any:
    """``Pool._take`` that leaves what it gives."""
    self.fill(1)
    return self._ready[0]


@pytest.mark.parametrize(
    ("defence", "mutant", "broken"),
    [
        ("secagg.paillier.public.check_modulus", lambda _: None, "can be broken"),
        ("secagg.paillier.public.check_modulus", only_size, "can be broken"),
        ("secagg.paillier.public.check_modulus", not_prime, "can be broken"),
        ("secagg.paillier.ciphertexts.read", reading(lambda _: True), "no ciphertext"),
        ("secagg.paillier.ciphertexts.read", reading(lambda c: 1 < c < KEY.n_squared), "no ciphertext"),
        ("secagg.paillier.ciphertexts.read", reading(lambda c: gmpy2.gcd(c, KEY.n) == 1), "no ciphertext"),
        ("secagg.paillier.coordinator.read", reading(lambda _: True), "not named"),
        ("secagg.paillier.silo.PaillierCipher.encrypt", kept, "used again"),
        ("secagg.paillier.obfuscators.Pool._take", first_of_all, "used again"),
    ],
)
def test_paillier_validation_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, broken: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=broken):
        test_paillier_validation()
