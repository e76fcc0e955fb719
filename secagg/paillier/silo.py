"""Paillier as a silo uses it in rounds: encrypting packed vectors, opening their sum alone or together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from secagg.encrypted.cipher import Opening, Progress
from secagg.errors import MalformedMessage
from secagg.fixedpoint import Encoding
from secagg.names import IntegerVector, RandomSource, SiloId
from secagg.paillier.ciphertexts import encrypt, read
from secagg.paillier.coordinator import PaillierAdder
from secagg.paillier.gmp import mpz
from secagg.paillier.knowledge import encrypt_known
from secagg.paillier.obfuscators import Pool
from secagg.paillier.secret import SecretKey
from secagg.paillier.shares import KeyShare
from secagg.paillier.threshold import Proof
from secagg.payload import Payload


class _PaillierCipher(PaillierAdder):
    """Encrypts; see ``encrypted.cipher.Cipher``.

    Guarantees:
        Every ciphertext has an obfuscator of its own. A vector is encrypted anew for each attempt, so no two
        uploads share a ciphertext.
    """

    def __init__(self, pool: Pool, random: RandomSource, opened: Progress | None) -> None:
        self._pool = pool
        self._random = random
        self._opened = opened

    def prepare(self) -> AbstractContextManager[None]:
        """Make obfuscators on one core beside what the block does."""
        return self._pool.filling(self.count)

    def encrypt(self, vector: IntegerVector, *, silo: SiloId, round_id: bytes) -> Payload:
        """Return the ciphertexts of a vector with its count entry; see ``Cipher.encrypt``.

        Args:
            vector: shape (length + 1,).
            silo: in the proof that shared openings need; elsewhere the signature names it.
            round_id: in the first lane of every plaintext, and in that proof.
        """
        self._pool.fill(self.count)
        rows = self.packing.pack(vector, self.checks(round_id))
        if self.proof_size:
            context = self.context(silo, round_id)
            ciphertexts = encrypt_known(rows, self._pool, context=context, random=self._random)
        else:
            ciphertexts = b"".join(encrypt(rows, self._pool))
        return Payload.over("u1", len(ciphertexts), memoryview(ciphertexts))

    def _read(self, total: Payload) -> list[mpz]:
        if not self.total.fits(total):
            raise MalformedMessage("the sum has another length or type than the parameters say")
        return [c for batch in self.batches(total) for c in read(batch, self.public)]

    def _progress(self) -> Callable[[int], None] | None:
        """Return what counts ciphertexts of one opening."""
        opened, lock, done = self._opened, threading.Lock(), 0

        def more(count: int) -> None:
            nonlocal done
            if opened is not None:
                with lock:
                    done += count
                    opened(done, self.count)

        return None if opened is None else more

    def _sum(self, rows: NDArray[np.uint8], silos: int, round_id: bytes) -> IntegerVector:
        return self.packing.unpack(rows, self.checks(round_id), length=self.length, silos=silos)


class PaillierCipher(_PaillierCipher):
    """Under a key that every silo holds; see ``encrypted.cipher.SharedKeyCipher``.

    Args:
        secret: the key.
        encoding: of the vectors.
        random: fresh uniform bytes.
        opened: told how far an opening is.
    """

    def __init__(
        self,
        secret: SecretKey,
        encoding: Encoding,
        *,
        random: RandomSource = os.urandom,
        opened: Progress | None = None,
    ) -> None:
        PaillierAdder.__init__(self, secret.public, encoding)
        super().__init__(Pool(secret.public, random=random), random, opened)
        self._secret = secret

    def open(self, total: Payload, *, silos: int, round_id: bytes) -> IntegerVector:
        """Return the sum; see ``SharedKeyCipher.open``."""
        rows = self._secret.open(
            self._read(total), size=self.packing.row_bytes, progress=self._progress(), random=self._random
        )
        return self._sum(rows, silos, round_id)


class ThresholdPaillierCipher(_PaillierCipher):
    """With one share of a key; see ``encrypted.cipher.ThresholdCipher``.

    Args:
        share: of the key.
        encoding: of the vectors.
        random: fresh uniform bytes.
        opened: told how far an opening is.
    """

    def __init__(
        self,
        share: KeyShare,
        encoding: Encoding,
        *,
        random: RandomSource = os.urandom,
        opened: Progress | None = None,
    ) -> None:
        PaillierAdder.__init__(self, share.key, encoding)
        super().__init__(Pool(share.key.public, random=random), random, opened)
        self._share = share

    def part(self, total: Payload, *, round_id: bytes) -> bytes:
        """Return this silo's partial decryptions, and one proof for all; see ``ThresholdCipher.part``."""
        ciphertexts, size = self._read(total), self.public.ciphertext_size
        partials = self._share.decrypt(ciphertexts, progress=self._progress(), random=self._random)
        proof = self._share.prove(ciphertexts, partials, context=round_id, random=self._random)
        numbers = b"".join(partial.to_bytes(size, "big") for partial in partials)
        return numbers + self._share.key.proof_bytes(proof)

    def combine(self, total: Payload, parts: Mapping[int, bytes], *, silos: int, round_id: bytes) -> Opening:
        """Return the sum from t parts whose proof holds; see ``ThresholdCipher.combine``."""
        key, ciphertexts = self._share.key, self._read(total)
        right: dict[int, list[mpz]] = {}
        faulty = []
        for slot, part in sorted(parts.items()):
            partials, proof = self._part_of(part)
            if proof is None or not key.check(slot + 1, ciphertexts, partials, proof, context=round_id):
                faulty.append(slot)
            else:
                right[slot + 1] = partials
        if len(right) < key.threshold:
            return Opening(None, tuple(faulty))
        rows = key.open(right, size=self.packing.row_bytes)
        return Opening(self._sum(rows, silos, round_id), tuple(faulty))

    def _part_of(self, part: bytes) -> tuple[list[mpz], Proof | None]:
        if len(part) != self.part_size:
            return [], None
        size, end = self.public.ciphertext_size, self.total.length
        numbers = [mpz.from_bytes(part[start : start + size], "big") for start in range(0, end, size)]
        return numbers, self._share.key.proof_from(part[end:])
