"""The border to SEAL: typed, holding no key, and the only place that knows its serialised form.

What travels is not SEAL's form. A chunk is a seed and words, or words alone, of one fixed size; everything
else that SEAL wants to read (level, scale, number of polynomials, version, compression) is written here from
our own parameters, so that no byte of a peer reaches SEAL's parser but a seed and words that were checked to
be below the modulus. In the other direction SEAL's own bytes are read: it offers no other way to the seed.

SEAL saves to and loads from paths only: they name a file in memory (memfd_create), so nothing touches a disk.

Source: Microsoft SEAL 4.1, ``Ciphertext::save_members``, ``Plaintext::save_members``, ``Serialization``; RFC
8878, section 3.1 (frames and blocks of zstd).
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any, TypeAlias
from weakref import finalize

import numpy as np

from secagg.ckks.parameters import SEED_SIZE, Ring, SumParameters
from secagg.errors import EnvironmentFault, MalformedMessage, MissingExtra

try:
    from tenseal import sealapi as sealapi  # noqa: PLC0414 - handed on, so that this module alone imports it
except ModuleNotFoundError as missing:
    raise MissingExtra("ckks", "tenseal") from missing

SealObject: TypeAlias = Any
"""Anything of ``tenseal.sealapi``, which has no types."""

SEAL_MAGIC = b"\x5e\xa1\x10"
"""First bytes of everything that SEAL serialises: two of magic, the size of its header."""

_HEADER = struct.Struct("<HBBBBHQ")
_CIPHERTEXT = struct.Struct("<4QBQQQdQ")  # level, NTT form, polynomials, degree, primes, scale, correction
_PLAINTEXT = struct.Struct("<4QQd")  # level, coefficients, scale
_COUNT = struct.Struct("<Q")
_NO_COMPRESSION, _ZLIB, _ZSTD = range(3)
_BLAKE2XB = 1
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MOST_STORED = 1 << 20


class Seal:
    """SEAL's context for one ring, and a file in memory; for one thread at a time.

    Args:
        ring: of the parameters.

    Raises:
        EnvironmentFault: SEAL refuses the ring, or the system has no files in memory.
    """

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        if not hasattr(os, "memfd_create"):
            raise EnvironmentFault("CKKS needs files in memory (memfd_create): run it on Linux")
        wanted = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        wanted.set_poly_modulus_degree(ring.degree)
        wanted.set_coeff_modulus([sealapi.Modulus(ring.modulus), sealapi.Modulus(ring.special)])
        # SEAL holds the ring to the same table of the standard once more.
        self.context: SealObject = sealapi.SEALContext(wanted, True, sealapi.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise EnvironmentFault(f"SEAL refuses the ring: {self.context.parameters_error_name()}")
        header = sealapi.Serialization.SEALHeader()
        self._version = header.version_major, header.version_minor
        self._file = os.memfd_create("secagg")
        self._path = f"/proc/self/fd/{self._file}"
        finalize(self, os.close, self._file)
        self._seed_head = self._object_head(1 + SEED_SIZE) + bytes([_BLAKE2XB])

    def fresh(self, parameters: SumParameters, chunk: memoryview) -> SealObject:
        """Return the ciphertext of a chunk that ``read_fresh`` gave; its words are below the modulus."""
        head, words = self._head(parameters, self.ring.degree), chunk[SEED_SIZE:]
        return self._loaded(sealapi.Ciphertext(), head, words, self._seed_head, chunk[:SEED_SIZE])

    def summed(self, parameters: SumParameters, chunk: memoryview) -> SealObject:
        """Return the ciphertext of a chunk that ``read_sum`` gave; its words are below the modulus."""
        return self._loaded(sealapi.Ciphertext(), self._head(parameters, 2 * self.ring.degree), chunk)

    def key(self, words: memoryview) -> SealObject:
        """Return the secret key of words that ``key_words`` gave.

        Raises:
            MalformedMessage: SEAL refuses them.
        """
        count = 2 * self.ring.degree
        head = _PLAINTEXT.pack(*self.context.key_parms_id(), count, 1.0) + self._array_head(count)
        try:
            return self._loaded(sealapi.SecretKey(), head, words)
        finally:
            os.ftruncate(self._file, 0)

    def read_fresh(self, parameters: SumParameters, ciphertext: SealObject) -> bytes:
        """Return a fresh, seeded ciphertext as it travels: the seed, then N words, little-endian.

        Raises:
            EnvironmentFault: this build of SEAL writes another form.
        """
        body, head = self.stored(ciphertext), self._head(parameters, self.ring.degree)
        middle = len(head) + 8 * self.ring.degree
        if (
            len(body) != middle + len(self._seed_head) + SEED_SIZE
            or body[: len(head)] != head
            or body[middle:-SEED_SIZE] != self._seed_head
        ):
            raise _other_form()
        return b"".join((body[-SEED_SIZE:], body[len(head) : middle]))

    def read_sum(self, parameters: SumParameters, ciphertext: SealObject) -> memoryview:
        """Return a ciphertext as a sum travels: 2 N words, little-endian.

        Raises:
            EnvironmentFault: this build of SEAL writes another form.
        """
        body, head = self.stored(ciphertext), self._head(parameters, 2 * self.ring.degree)
        if len(body) != len(head) + 16 * self.ring.degree or body[: len(head)] != head:
            raise _other_form()
        return body[len(head) :]

    def key_words(self, key: SealObject) -> bytes:
        """Return the 2 N words of a secret key, little-endian: N modulo each prime."""
        # Word by word, because zstd may compress them: those of a short prime are not uniform.
        plain = key.data()
        return np.fromiter((plain[i] for i in range(2 * self.ring.degree)), "<u8").tobytes()

    def stored(self, value: SealObject) -> memoryview:
        """Return the plain body of what SEAL serialises ``value`` to.

        Raises:
            EnvironmentFault: this build of SEAL writes another form.
        """
        value.save(self._path)
        size = os.fstat(self._file).st_size
        return plain_body(os.pread(self._file, size, 0))

    def load(self, value: SealObject, *parts: bytes | memoryview) -> None:
        """Let SEAL read ``value`` from a plain body, in parts, that was made here.

        Raises:
            MalformedMessage: it refuses.
        """
        os.ftruncate(self._file, 0)
        os.pwritev(self._file, [self._object_head(sum(map(len, parts))), *parts], 0)
        try:
            value.load(self.context, self._path)
        except (RuntimeError, ValueError, IndexError):
            raise MalformedMessage("SEAL refuses a ciphertext or a key of the right size") from None

    def _loaded(self, value: SealObject, *parts: bytes | memoryview) -> SealObject:
        self.load(value, *parts)
        return value

    def _head(self, parameters: SumParameters, words: int) -> bytes:
        level = self.context.first_parms_id()
        head = _CIPHERTEXT.pack(*level, 1, 2, self.ring.degree, 1, parameters.scale, 1)
        return head + self._array_head(words)

    def _array_head(self, words: int) -> bytes:
        return self._object_head(_COUNT.size + 8 * words) + _COUNT.pack(words)

    def _object_head(self, size: int) -> bytes:
        return _HEADER.pack(0xA15E, _HEADER.size, *self._version, _NO_COMPRESSION, 0, _HEADER.size + size)


def plain_body(data: bytes) -> memoryview:
    """Return the body of a serialised object of SEAL, which is ours: this reads no peer's bytes.

    Ciphertexts are uniform words, which zstd finds nothing to save on, and stores as they are; so its
    frames are walked here and no decompressor is needed.

    Raises:
        EnvironmentFault: it is compressed, or of another form.
    """
    try:
        magic, header, _, _, mode, _, size = _HEADER.unpack_from(data)
        if magic != 0xA15E or header != _HEADER.size or size != len(data):
            raise _other_form()
        body = memoryview(data)[header:]
        if mode == _NO_COMPRESSION:
            return body
        if mode == _ZLIB:
            return memoryview(zlib.decompressobj().decompress(body, _MOST_STORED))
        if mode == _ZSTD:
            return _stored_blocks(body)
    except (struct.error, zlib.error, IndexError):
        pass
    raise _other_form()


def refuse_words(ring: Ring, words: memoryview) -> None:
    """Refuse words that are not below the modulus of ``ring``.

    Raises:
        MalformedMessage: one is not.
    """
    if np.frombuffer(words, "<u8").max() >= ring.modulus:
        raise MalformedMessage("a ciphertext has a coefficient that is not below the modulus")


def _stored_blocks(body: memoryview) -> memoryview:
    """Return the content of a zstd frame whose blocks are all stored."""
    descriptor = body[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + ((1 if single else 0), 2, 4, 8)[flag]
    found: list[memoryview] = []
    last = bytes(body[:4]) != _ZSTD_MAGIC
    while not last and at + 3 <= len(body):
        header = int.from_bytes(body[at : at + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind != 0:  # Run-length or compressed.
            break
        found.append(body[at + 3 : at + 3 + size])
        at += 3 + size
    if not last or not found or at + 4 * (descriptor >> 2 & 1) != len(body):
        raise _other_form()
    return found[0] if len(found) == 1 else memoryview(b"".join(found))


def _other_form() -> EnvironmentFault:
    return EnvironmentFault(
        "this build of SEAL serialises in a form that is not known here. Type: pip install 'secagg[ckks]'"
    )
