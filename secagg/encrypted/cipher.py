"""What a round needs of an encryption: to add, to encrypt, and to open with one key or with t shares of it.

A cipher belongs to one key and one encoding. The coordinator is handed an ``Adder``; a silo a
``SharedKeyCipher`` or a ``ThresholdCipher``, and its key tells which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from secagg.fixedpoint import Encoding
from secagg.messages import ToKeyHolder
from secagg.names import IntegerVector, SiloId
from secagg.payload import Payload, PayloadType
from secagg.session import SiloStep
from secagg.terms import Terms

SEAL_SIZE = 16
"""Bytes that sealing adds to a part of an opening."""


@dataclass(frozen=True)
class Form:
    """Type and length of a payload."""

    dtype: PayloadType
    length: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.length * int(self.dtype[1])

    def fits(self, payload: Payload) -> bool:
        """Whether ``payload`` has this form."""
        return payload.dtype == self.dtype and payload.length == self.length


class RunningSum(Protocol):
    """Ciphertexts of vectors, added one after the other; one total is held."""

    def add(self, ciphertexts: Payload) -> None:
        """Add one vector, which ``Adder.check`` accepted.

        Raises:
            MalformedMessage: it is not any more what was checked. A part may have been added, so the sum is
                of no use.
        """
        ...

    def total(self) -> Payload:
        """Return the ciphertexts of the sum, which are read where they lie, and by one thread at a time.

        They are sent without a second total in memory, so nothing is added afterwards.
        """
        ...


class Adder(Protocol):
    """Adds ciphertexts of vectors of one encoding under one key, and opens nothing."""

    @property
    def key(self) -> bytes:
        """Id of the key, 32 bytes."""
        ...

    @property
    def parameters(self) -> bytes:
        """Digest of how a vector lies in ciphertexts, 32 bytes."""
        ...

    @property
    def upload(self) -> Form:
        """Form of one silo's ciphertexts."""
        ...

    @property
    def total(self) -> Form:
        """Form of those of a sum."""
        ...

    @property
    def part_size(self) -> int:
        """Bytes of one silo's part of an opening; 0 where one key opens."""
        ...

    def check(self, ciphertexts: Payload, *, silo: SiloId, round_id: bytes) -> None:
        """Check every ciphertext of an upload, before any of it is added.

        Args:
            ciphertexts: the upload.
            silo: whose it is said to be.
            round_id: that it is said to be for.

        Raises:
            MalformedMessage: one is none under the key; or, where shares open, nothing proves that this silo
                knows what it encrypted for this round.
        """
        ...

    def begin(self) -> RunningSum:
        """Return an empty sum."""
        ...


Adders: TypeAlias = Callable[[Encoding], Adder]
"""What adds under one key, by encoding."""


class Cipher(Adder, Protocol):
    """An ``Adder`` that can encrypt."""

    def prepare(self) -> AbstractContextManager[None]:
        """Return a block beside which everything is made that an encryption needs and no data decides."""
        ...

    def encrypt(self, vector: IntegerVector, *, silo: SiloId, round_id: bytes) -> Payload:
        """Return the ciphertexts of an encoded vector and its count entry.

        Args:
            vector: of the encoding's word, shape (length + 1,).
            silo: whose it is.
            round_id: that they are for; checks and proofs that an encryption has inside are bound to both.

        Raises:
            InputRefused: ``bound``: an integer is too large for the cohort.
        """
        ...


class SharedKeyCipher(Cipher, Protocol):
    """Of a key that every silo holds whole."""

    def open(self, total: Payload, *, silos: int, round_id: bytes) -> IntegerVector:
        """Return the sum, shape (length + 1,).

        Raises:
            MalformedMessage: it is not made of ciphertexts under this key.
            RoundAborted: it is no sum of so many vectors of this round.
        """
        ...


@dataclass(frozen=True)
class Opening:
    """What came of the parts of an opening.

    Attributes:
        vector: the sum, shape (length + 1,); None if fewer than t parts are right.
        faulty: slots whose part was wrong.
    """

    vector: IntegerVector | None
    faulty: tuple[int, ...]


class ThresholdCipher(Cipher, Protocol):
    """Of a key of which this silo holds a share."""

    def part(self, total: Payload, *, round_id: bytes) -> bytes:
        """Return this silo's part of the opening of ``total``, with the proof that it is right."""
        ...

    def combine(self, total: Payload, parts: Mapping[int, bytes], *, silos: int, round_id: bytes) -> Opening:
        """Return the sum, and whose part was wrong.

        Args:
            total: what all parts are of.
            parts: roster slot -> part.
            silos: how many vectors are in it.
            round_id: as of ``encrypt``.

        Raises:
            RoundAborted: it is no sum of so many vectors.
        """
        ...


SiloCipher: TypeAlias = SharedKeyCipher | ThresholdCipher

Progress: TypeAlias = Callable[[int, int], None]
"""Told, while a sum is opened, how many ciphertexts are done, and of how many; from several threads."""


class Keys(Protocol):
    """The keys that a silo holds."""

    def cipher(self, terms: Terms) -> SiloCipher:
        """Return the cipher of the key and the encoding of ``terms``.

        Raises:
            PolicyRefused: ``key``: it is not held here, or not to be used any more. Or it is not what the
                policy allows, or not opened by as many silos as the terms say.
        """
        ...

    def want(self, terms: Terms) -> SiloStep | None:
        """Return how this silo asks its peers for the key of ``terms``; None if it does not.

        Raises:
            PolicyRefused: the policy does not allow the scheme.
        """
        ...

    def receive(self, message: ToKeyHolder) -> SiloStep:
        """Take one message of the coordinator about keys.

        Raises:
            UnexpectedMessage: nothing of that kind is under way here.
            SecaggError: it is refused.
        """
        ...
