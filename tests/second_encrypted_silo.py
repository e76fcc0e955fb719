"""A second silo under a Paillier key that all hold, written from the pages: nothing of ``secagg`` is imported.

The package ``phe`` opens the sum. As ``second_silo`` it follows an honest attempt and refuses nothing; what it
shows is that the pages say every byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from phe.paillier import PaillierPrivateKey, PaillierPublicKey

from tests.second_silo import frame, hashed

SECRET = b"secagg paillier secret 1\n"
LANES = {32: (5, 2**31 - 1), 64: (7, 2**53)}
"""Bytes of a lane, and what a sum is at most."""


class SecondKey:
    """Both halves of a key with short obfuscators."""

    def __init__(self, secret: bytes) -> None:
        primes = secret[len(SECRET) + 1 :]
        half = len(primes) // 2
        p, q = (int.from_bytes(part, "big") for part in (primes[:half], primes[half:]))
        self.n, self.bits = p * q, 16 * half
        number = self.n.to_bytes(self.bits // 8, "big")
        self.id = hashed("paillier public key", "short", number)
        y = int.from_bytes(hashlib.shake_256(frame("paillier base", number)).digest(self.bits // 8 + 16), "big")
        self.base = pow(-y * y % self.n, self.n, self.n**2)
        self._secret = PaillierPrivateKey(PaillierPublicKey(self.n), p, q)

    def encrypt(self, plaintext: int, exponent: bytes) -> bytes:
        obfuscator = pow(self.base, int.from_bytes(exponent, "little"), self.n**2)
        return ((1 + plaintext * self.n) * obfuscator % self.n**2).to_bytes(self.bits // 4, "big")

    def open(self, ciphertext: bytes) -> int:
        return int(self._secret.raw_decrypt(int.from_bytes(ciphertext, "big")))


class SecondEncryptedSilo:
    """One silo in one attempt: header and payload in, header and payload out."""

    def __init__(
        self, name: str, *, identity: bytes, opened: bytes, key: bytes, vector: bytes, random: bytes
    ) -> None:
        self.name, self.random, self.key = name, random, SecondKey(key)
        self.identity = Ed25519PrivateKey.from_private_bytes(identity)
        self.terms = msgspec.msgpack.decode(opened[1:])["terms"]
        self.word_bits, self.cohort = (self.terms["encoding"][k] for k in ("word_bits", "cohort"))
        words = np.frombuffer(vector, f"<i{self.word_bits // 8}")
        self.integers = [*words.tolist(), 1]
        self.lane, most = LANES[self.word_bits]
        self.bias, self.lanes = most // self.cohort, (self.key.bits - 1) // (8 * self.lane)
        self.total: list[int] | None = None

    def draw(self, size: int) -> bytes:
        drawn, self.random = self.random[:size], self.random[size:]
        return drawn

    def receive(self, header: bytes, payload: bytes | None) -> tuple[bytes, bytes | None] | None:
        message = msgspec.msgpack.decode(header[1:])
        steps: dict[str, Callable[..., Any]] = {
            "RoundOpened": self.encrypted,
            "UploadsAnnounced": self.check,
            "AggregateAnnounced": self.open,
        }
        kind = message.pop("type")
        if payload is not None:
            message["payload"] = payload
        reply = steps[kind](**message)
        if reply is None:
            return None
        data = reply.pop("data", None)
        return b"\x01" + msgspec.msgpack.encode(reply), data

    def sign(self, label: str, *fields: Any) -> bytes:
        return self.identity.sign(frame(label, *fields))

    def training(self) -> bytes:
        scheme, encoding = self.terms["scheme"], self.terms["encoding"]
        told = [self.terms[key] for key in ("federation", "job", "round", "kind", "release", "roster", "base")]
        cohort = [scheme["cohort"][key] for key in ("n", "c", "t", "k_min")]
        segments = [
            [s[key] for key in ("name", "length", "bound", "fraction_bits")] for s in encoding["segments"]
        ]
        numbers = [self.word_bits, self.cohort, encoding["weight_cap"], segments]
        protection = [scheme["type"], *cohort, scheme["key"]]
        return hashed("training", *told, protection, numbers, self.terms["training"])

    def encrypted(self, training: bytes, attempt: int, seconds: float, voids: Any, evidence: Any) -> Any:
        assert training == self.training()
        assert self.terms["scheme"]["key"] == self.key.id
        parameters = hashed(
            "paillier parameters", self.word_bits, self.cohort, self.key.bits, len(self.integers)
        )
        self.round_id = hashed("encrypted round", [training, attempt, seconds], self.key.id, parameters)
        data = b""
        for start in range(0, len(self.integers), self.lanes):
            lanes = self.integers[start : start + self.lanes]
            packed = b"".join((value + self.bias).to_bytes(self.lane, "little") for value in lanes)
            data += self.key.encrypt(int.from_bytes(packed, "little"), self.draw(self.key.bits // 16))
        digest = blake3(data).digest()
        signed = self.key.id, parameters, self.round_id, self.name, len(data), digest, b""
        upload = {"content": digest, "box": None, "signature": self.sign("upload", *signed)}
        ciphertexts = ["u1", len(data), digest]
        reply = {"type": "EncryptedInput", "round_id": self.round_id, "upload": upload}
        return reply | {"ciphertexts": ciphertexts, "data": data}

    def check(self, round_id: bytes, uploads: list[Any]) -> Any:
        named = [[silo, upload["content"], upload["box"] or b""] for silo, upload in uploads]
        self.survivors = [silo for silo, _ in uploads]
        signature = self.sign("survivors", hashed("uploads", round_id, named), self.survivors)
        return {"type": "ConsistencyCheck", "round_id": round_id, "signature": signature}

    def open(self, round_id: bytes, signatures: Any, total: Any, payload: bytes) -> None:
        size, integers = self.key.bits // 4, []
        for start in range(0, len(payload), size):
            plaintext = self.key.open(payload[start : start + size])
            lanes = plaintext.to_bytes(self.lanes * self.lane, "little")
            for at in range(0, len(lanes), self.lane):
                integers.append(int.from_bytes(lanes[at : at + self.lane], "little"))
        *found, count = (lane - len(self.survivors) * self.bias for lane in integers[: len(self.integers)])
        assert not any(integers[len(self.integers) :])
        assert count == len(self.survivors)
        self.total = found
