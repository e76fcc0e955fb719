"""What only a silo that holds the key may import: keys, encryption, opening a sum, publishing it.

Encryption is symmetric. No public, relinearisation or Galois key is ever made: a sum needs none, and none can
then be lost. The last slots of every chunk hold what every silo knows (``check_values``), so that an opened
sum says whether it is one: of as many uploads as it should, of this round, each chunk in its place. That
finds accidents. It does not find a coordinator that means to cheat, who could present one silo's upload as
the sum to whoever opens it: in this scheme (L0) all who hold the key could read every upload.

**A raw decryption gives the key away** to whoever has the ciphertext: it is a linear equation in the key
without any error left (Li, Micciancio 2021). What ``open_sum`` returns stays with those who hold the key;
what leaves them goes through ``Publisher``.

Source: Cheon, Kim, Kim, Song 2017; Li, Micciancio 2021, *On the Security of Homomorphic Encryption on
Approximate Numbers*; Li, Micciancio, Schultz, Sorrell 2022 (noise of published sums).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.parameters import RINGS, SECRET_MAGIC, SumParameters
from secagg.ckks.public import sum_size, sum_words
from secagg.ckks.seal import Seal, SealObject, refuse_words, sealapi
from secagg.errors import MalformedMessage, ParameterError, PolicyRefused, RoundAborted, UsageError
from secagg.fixedpoint import real_vector, refuse_bad_numbers
from secagg.hazmat.framing import digest
from secagg.hazmat.gaussian import gaussian_blocks
from secagg.names import RandomSource, RealVector
from secagg.payload import Payload, regroup


@dataclass(frozen=True)
class SecretMaterial:
    """A serialised secret key, to be sealed to a silo's pinned identity and for nothing else.

    Guarantees:
        - Its repr shows nothing.
        - No decoder of ``secagg.ckks.public`` accepts its bytes.
    """

    content: bytes = field(repr=False)


class SecretKey:
    """The key that all silos share: it encrypts, and it opens.

    Guarantees:
        - Its repr shows its public id and nothing else.
        - It refuses to be copied or pickled.
    """

    __slots__ = ("_key", "_key_id", "_seal")

    def __init__(self, seal: Seal, key: SealObject) -> None:
        self._seal = seal
        self._key = key
        self._key_id = digest("ckks key", self.material().content)

    @classmethod
    def generate(cls, degree: int) -> SecretKey:
        """Make a new key from the system's random numbers, as SEAL reads them.

        Raises:
            ParameterError: ``degree`` is of no ring.
        """
        seal = _seal(degree)
        return cls(seal, sealapi.KeyGenerator(seal.context).secret_key())

    @classmethod
    def from_material(cls, material: SecretMaterial) -> SecretKey:
        """Load what ``material`` gave.

        Raises:
            MalformedMessage: it is no key, or of another size.
        """
        content, start = material.content, len(SECRET_MAGIC) + 8
        degree = int.from_bytes(content[len(SECRET_MAGIC) : start], "big")
        if not content.startswith(SECRET_MAGIC) or degree not in RINGS:
            raise MalformedMessage("these bytes are no secret key")
        words = memoryview(content)[start:]
        if len(words) != 16 * degree:
            raise MalformedMessage(f"a secret key of degree {degree} has {16 * degree} bytes of words")
        seal = _seal(degree)
        return cls(seal, seal.key(words))

    @property
    def key_id(self) -> bytes:
        """32 bytes that name the key and tell nothing of it: a key has too many values to be guessed."""
        return self._key_id

    @property
    def degree(self) -> int:
        """Of the ring."""
        return self._seal.ring.degree

    def material(self) -> SecretMaterial:
        """Return the secret itself, for a sealed box."""
        degree = self._seal.ring.degree.to_bytes(8, "big")
        return SecretMaterial(SECRET_MAGIC + degree + self._seal.key_words(self._key))

    def __repr__(self) -> str:
        return f"SecretKey(key_id={self.key_id.hex()[:16]})"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a secret key is not copied or pickled; seal its material() to a silo's identity")


@dataclass(frozen=True)
class OpenedSum:
    """A decrypted sum. It goes to nobody who has ciphertexts: publish it instead.

    Attributes:
        values: float64, shape (length,).
        silos: how many uploads are in it.
        worst_error: an entry is off by at most this.
        key_id: of the key that opened it.
        parameters: that it was encrypted under.
    """

    values: RealVector = field(repr=False)
    silos: int
    worst_error: float
    key_id: bytes
    parameters: SumParameters


def check_values(parameters: SumParameters, *, round_id: bytes, chunk: int) -> tuple[float, float]:
    """Return what every silo writes into the check slots of its chunk number ``chunk``.

    The first is the bound, so that the sum counts uploads. The second follows from round and place, and looks
    random, so that no mixture of other rounds' or places' chunks has the same sum.
    """
    drawn = digest("ckks check slot", parameters.digest, round_id, chunk)
    share = int.from_bytes(drawn[:8], "big") / 2**63 - 1  # -1 to 1
    return parameters.bound, share * parameters.bound


def encrypt(
    key: SecretKey, parameters: SumParameters, values: NDArray[Any], *, round_id: bytes
) -> Iterator[bytes]:
    """Yield one silo's vector, encrypted, chunk by chunk.

    Encrypting again gives other bytes, so they are kept while they are needed, not made twice.

    Args:
        key: of the ring of ``parameters``.
        parameters: of the round.
        values: shape (length,), float32, float64 or integers, |value| <= bound.
        round_id: 32 bytes.

    Raises:
        InputRefused: ``dtype``, ``shape``, ``nan``, ``infinite`` or ``bound``. Numbers are looked at before
            the first chunk is made.
        UsageError: the key is of another ring.
    """
    _same_ring(key, parameters)
    segment, entries = parameters.segment, parameters.ring.entries
    vector = real_vector(segment, values)
    for start in range(0, vector.size, entries):
        refuse_bad_numbers(segment, vector[start : start + entries], first=start)
    return _encrypted(key, parameters, vector, round_id)


def open_sum(
    key: SecretKey, parameters: SumParameters, payload: Payload, *, silos: int, round_id: bytes
) -> OpenedSum:
    """Decrypt a sum of uploads, and check that it is one.

    Args:
        key: that the uploads are encrypted under.
        parameters: of the round.
        payload: ``u8``, chunk after chunk, 2 N words each; see ``CiphertextSum.payload``.
        silos: how many uploads must be in it, 2 to the cohort.
        round_id: that they were encrypted for.

    Raises:
        MalformedMessage: it is of another size, or a word is no coefficient.
        RoundAborted: it is no sum of so many uploads of this round under this key.
        UsageError: ``silos`` is out of range, or the key is of another ring.

    Guarantees:
        - An entry is off by at most ``worst_error``.
        - A chunk that is missing, there twice, in another's place, of another round or of another key is
        refused.
    """
    _same_ring(key, parameters)
    if not 2 <= silos <= parameters.cohort:
        raise UsageError(f"silos is {silos}, must be 2 to the cohort {parameters.cohort}")
    if payload.dtype != "u8" or payload.length != sum_words(parameters):
        raise MalformedMessage(
            f"a sum of {payload.size} bytes, under these parameters it has {8 * sum_words(parameters)}"
        )
    seal, entries = key._seal, parameters.ring.entries
    decryptor = sealapi.Decryptor(seal.context, key._key)
    encoder = sealapi.CKKSEncoder(seal.context)
    values = np.empty(parameters.chunks * entries)
    for place, chunk in enumerate(regroup(payload.pieces(), sum_size(parameters))):
        refuse_words(parameters.ring, chunk)
        slots = _decrypted(decryptor, encoder, seal.summed(parameters, chunk))
        check_slots(parameters, slots, silos=silos, round_id=round_id, chunk=place)
        values[place * entries : (place + 1) * entries] = slots[:entries]
    check_padding(parameters, values[parameters.length :], silos=silos)
    worst = parameters.error_bound(silos)
    return OpenedSum(values[: parameters.length], silos, worst, key.key_id, parameters)


def check_slots(
    parameters: SumParameters, slots: RealVector, *, silos: int, round_id: bytes, chunk: int
) -> None:
    """Refuse a decrypted chunk whose check slots do not hold the sum of ``silos`` times what each wrote.

    Raises:
        RoundAborted: they do not.
    """
    expected = check_values(parameters, round_id=round_id, chunk=chunk)
    allowed = 2 * parameters.error_bound(silos)  # The product below rounds, too.
    found = slots[-len(expected) :]
    # Written so that NaN is refused.
    if not all(abs(slot - silos * value) <= allowed for slot, value in zip(found, expected, strict=True)):
        raise RoundAborted(
            f"chunk {chunk} of what was to be opened is no sum of {silos} uploads of this round under this "
            "key; nothing was opened"
        )


def check_padding(parameters: SumParameters, padding: RealVector, *, silos: int) -> None:
    """Refuse a sum with something behind its end.

    Raises:
        RoundAborted: it has.
    """
    if padding.size and not np.abs(padding).max() <= parameters.error_bound(silos):
        raise RoundAborted("what was to be opened has values behind its end; nothing was opened")


class Publisher:
    """Gives opened sums out, each with noise that hides what a decryption says about the key.

    It counts, and refuses after ``parameters.releases`` sums: the noise is made for so many. The count
    belongs to the key: whoever keeps the key keeps it, writes it down before a sum leaves, and hands it in
    again.

    Args:
        parameters: of the sums, the same for all that are published under the key.
        key_id: of the key.
        released: how many were published before.

    Raises:
        ParameterError: ``released`` is below 0.

    Guarantees:
        - Publishes at most ``parameters.releases`` sums, failed attempts included.
        - Every published entry is a multiple of ``parameters.publishing_grid``.
    """

    def __init__(self, parameters: SumParameters, *, key_id: bytes, released: int = 0) -> None:
        if released < 0:
            raise ParameterError(f"released is {released}, must be at least 0")
        self._parameters = parameters
        self._key_id = key_id
        self._released = released

    @property
    def released(self) -> int:
        """Sums that were published under this key."""
        return self._released

    def publish(self, opened: OpenedSum, *, random: RandomSource = os.urandom) -> RealVector:
        """Return the sum with noise of ``parameters.publishing_sigma``, rounded to the grid.

        Published once: the same sum with other noise counts again.

        Args:
            opened: of this key and these parameters.
            random: keys the noise.

        Raises:
            PolicyRefused: ``releases``: as many sums as the noise is made for were published.
            UsageError: the sum is of another key or of other parameters.
        """
        if opened.key_id != self._key_id or opened.parameters != self._parameters:
            raise UsageError("a sum is published by the counter of its own key and parameters")
        if self._released >= self._parameters.releases:
            raise PolicyRefused(
                "releases", f"{self._released} sums were published under this key; make a new key"
            )
        self._released += 1
        return noised(self._parameters, opened.values, random)


def noised(parameters: SumParameters, values: RealVector, random: RandomSource) -> RealVector:
    """Return ``values`` with the noise and on the grid of ``parameters``."""
    sigma, grid = parameters.publishing_sigma, parameters.publishing_grid
    out, at = np.empty(values.size), 0
    for noise in gaussian_blocks(values.size, random=random):
        block = out[at : at + noise.size]
        np.multiply(noise, sigma, out=noise)
        np.add(values[at : at + noise.size], noise, out=noise)
        # The grid is a power of two: only the rounding rounds.
        np.multiply(np.rint(noise / grid, out=noise), grid, out=block)
        at += noise.size
    return out


def _encrypted(
    key: SecretKey, parameters: SumParameters, vector: NDArray[Any], round_id: bytes
) -> Iterator[bytes]:
    seal, entries = key._seal, parameters.ring.entries
    encoder, encryptor = sealapi.CKKSEncoder(seal.context), sealapi.Encryptor(seal.context, key._key)
    slots = np.zeros(parameters.degree // 2)
    plain = sealapi.Plaintext()
    for place in range(parameters.chunks):
        part = vector[place * entries : (place + 1) * entries]
        slots[: part.size] = part
        slots[part.size : entries] = 0.0
        slots[entries:] = check_values(parameters, round_id=round_id, chunk=place)
        encoder.encode(slots.tolist(), parameters.scale, plain)
        yield seal.read_fresh(parameters, encryptor.encrypt_symmetric(plain))


def _decrypted(decryptor: SealObject, encoder: SealObject, ciphertext: SealObject) -> RealVector:
    plain = sealapi.Plaintext()
    try:
        decryptor.decrypt(ciphertext, plain)
        decoded = encoder.decode_double(plain)
    except (RuntimeError, ValueError):
        raise MalformedMessage("SEAL refuses to decrypt a ciphertext of the right size") from None
    return np.frombuffer(array("d", decoded))


def _seal(degree: int) -> Seal:
    if degree not in RINGS:
        raise ParameterError(f"degree is {degree}, must be one of {', '.join(map(str, RINGS))}")
    return Seal(RINGS[degree])


def _same_ring(key: SecretKey, parameters: SumParameters) -> None:
    if key._seal.ring != parameters.ring:
        raise UsageError(f"the key is not of degree {parameters.degree}")
