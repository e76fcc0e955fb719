"""Second silos under Paillier, with the whole key and with a share, written from the pages: no ``secagg``.

The package ``phe`` opens the sum of the whole key. As ``second_silo``, they follow an honest attempt and
refuse nothing; what they show is that the pages say every byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from math import factorial
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from phe.paillier import PaillierPrivateKey, PaillierPublicKey

from tests.second_silo import Ledger, exchange, frame, hashed, head, hkdf, public, told

PUBLIC = b"secagg paillier public 1\n"
SECRET = b"secagg paillier secret 1\n"
LANES = {32: (33, 2**31 - 1), 64: (55, 2**53)}
"""Bits of a lane, and what a sum is at most."""


class PublicHalf:
    """A modulus, with short obfuscators."""

    def __init__(self, n: int) -> None:
        self.n, self.bits, self.squared = n, n.bit_length(), n * n
        number = n.to_bytes(self.bits // 8, "big")
        self.id = self.of_modulus = hashed("paillier public key", "short", number)
        y = int.from_bytes(
            hashlib.shake_256(frame("paillier base", number)).digest(self.bits // 8 + 16), "big"
        )
        self.base = pow(-y * y % n, n, self.squared)

    def encrypt(self, plaintext: int, exponent: bytes) -> bytes:
        obfuscator = pow(self.base, int.from_bytes(exponent, "little"), self.squared)
        return ((1 + plaintext * self.n) * obfuscator % self.squared).to_bytes(self.bits // 4, "big")

    def written(self, *numbers: int) -> bytes:
        return b"".join(number.to_bytes(self.bits // 4, "big") for number in numbers)

    def read(self, data: bytes) -> list[int]:
        size = self.bits // 4
        return [int.from_bytes(data[at : at + size], "big") for at in range(0, len(data), size)]


class WholeKey(PublicHalf):
    """A key that every silo holds."""

    def __init__(self, secret: bytes) -> None:
        primes = secret[len(SECRET) + 1 :]
        p, q = (
            int.from_bytes(part, "big") for part in (primes[: len(primes) // 2], primes[len(primes) // 2 :])
        )
        super().__init__(p * q)
        self._secret = PaillierPrivateKey(PaillierPublicKey(self.n), p, q)

    def open(self, ciphertext: int) -> int:
        return int(self._secret.raw_decrypt(ciphertext))


class KeyShare(PublicHalf):
    """A key of which a silo holds a share."""

    def __init__(self, key: bytes, share: bytes) -> None:
        self.parties, self.threshold = key[0], key[1]
        end = 4 + int.from_bytes(key[2:4], "big")
        super().__init__(int.from_bytes(key[4 + len(PUBLIC) + 1 : end], "big"))
        self.generator, *self.verification = self.read(key[end:])
        known = [self.written(number) for number in (self.generator, *self.verification)]
        self.id = hashed("threshold paillier key", self.of_modulus, self.parties, self.threshold, known)
        self.party, self.share = share[len(SECRET) + 1], int.from_bytes(share[len(SECRET) + 2 :], "big")
        self.delta = factorial(self.parties)
        self.z = 2 * self.bits + self.delta.bit_length() + 513

    def partial(self, ciphertext: int) -> int:
        return pow(ciphertext, 2 * self.delta * self.share, self.squared)

    def batch(self, party: int, round_id: bytes, ciphertexts: list[int], partials: list[int]) -> list[int]:
        start = frame("paillier batch", self.id, party, round_id)
        content = hashlib.sha256(start + self.written(*ciphertexts, *partials)).digest()
        stream = hashlib.shake_256(content).digest(16 * len(partials))
        exponents = [int.from_bytes(stream[at : at + 16], "big") for at in range(0, len(stream), 16)]
        base = power = 1
        for c, d, e in zip(ciphertexts, partials, exponents, strict=True):
            base, power = base * pow(c, 4 * e, self.squared), power * pow(d, 2 * e, self.squared)
        return [base % self.squared, power % self.squared]

    def challenge(self, party: int, round_id: bytes, numbers: list[int]) -> int:
        stated = [self.written(number) for number in numbers]
        return int.from_bytes(hashed("paillier proof", self.id, party, round_id, stated), "big")

    def proof(self, round_id: bytes, ciphertexts: list[int], partials: list[int], fresh: bytes) -> bytes:
        numbers = self.batch(self.party, round_id, ciphertexts, partials)
        k = int.from_bytes(fresh, "big") >> (8 * len(fresh) - (self.z - 1))
        numbers += [pow(number, k, self.squared) for number in (numbers[0], self.generator)]
        challenge = self.challenge(self.party, round_id, numbers)
        response = k + challenge * self.delta * self.share
        return challenge.to_bytes(32, "big") + response.to_bytes(-(-self.z // 8), "big")

    def holds(self, party: int, round_id: bytes, ciphertexts: list[int], part: bytes) -> list[int] | None:
        """The partial decryptions of a part, if its proof holds."""
        end = len(ciphertexts) * self.bits // 4
        partials, challenge = self.read(part[:end]), int.from_bytes(part[end : end + 32], "big")
        response = int.from_bytes(part[end + 32 :], "big")
        base, power = self.batch(party, round_id, ciphertexts, partials)
        pairs = ((base, power), (self.generator, self.verification[party - 1]))
        committed = [
            pow(one, response, self.squared) * pow(other, -challenge, self.squared) % self.squared
            for one, other in pairs
        ]
        same = self.challenge(party, round_id, [base, power, *committed]) == challenge
        return partials if same else None

    def known(self, opened: list[tuple[int, bytes]], data: bytes, context: bytes, fresh: bytes) -> bytes:
        """The proof of plaintexts and exponents behind the ciphertexts that they are in."""
        split = self.bits // 8 + 16
        z, x = int.from_bytes(fresh[:split], "big") % self.n, int.from_bytes(fresh[split:], "big")
        shown = self.written((1 + z * self.n) * pow(self.base, x, self.squared) % self.squared)
        start = frame("paillier plaintexts", self.of_modulus, context, len(opened), shown)
        stream = hashlib.shake_256(hashlib.sha256(start + data).digest()).digest(16 * len(opened))
        for at, (plaintext, exponent) in enumerate(opened):
            e = int.from_bytes(stream[16 * at : 16 * (at + 1)], "big")
            z, x = z + e * plaintext, x + e * int.from_bytes(exponent, "little")
        answers = (z % self.n).to_bytes(self.bits // 8, "big"), x.to_bytes(self.bits // 16 + 37, "big")
        return shown + b"".join(answers)

    def combine(self, partials: dict[int, list[int]]) -> list[int]:
        """Damgard, Jurik, Nielsen 2010, section 4.1."""
        opened = []
        for at in range(len(next(iter(partials.values())))):
            product = 1
            for party, numbers in partials.items():
                above, below = self.delta, 1
                for other in partials:
                    if other != party:
                        above, below = above * -other, below * (party - other)
                product = product * pow(numbers[at], 2 * (above // below), self.squared) % self.squared
            opened.append((product - 1) // self.n * pow(4 * self.delta**2, -1, self.n) % self.n)
        return opened


class SecondEncryptedSilo:
    """One silo in one attempt: header and payload in, header and payload out."""

    def __init__(
        self,
        name: str,
        *,
        identity: bytes,
        roster: list[tuple[str, bytes]],
        opened: bytes,
        key: WholeKey | KeyShare,
        vector: bytes,
        random: bytes,
        ledger: Ledger | None = None,
    ) -> None:
        self.name, self.random, self.key, self.ledger = name, random, key, ledger
        self.slots = {silo: slot for slot, (silo, _) in enumerate(roster)}
        self.identity = Ed25519PrivateKey.from_private_bytes(identity)
        self.terms = msgspec.msgpack.decode(opened[1:])["terms"]
        self.word_bits, self.cohort = (self.terms["encoding"][k] for k in ("word_bits", "cohort"))
        words = np.frombuffer(vector, f"<i{self.word_bits // 8}")
        self.integers = [*words.tolist(), 1]
        self.lane, most = LANES[self.word_bits]
        self.bias, self.entries = most // self.cohort, (self.key.bits - 1) // self.lane - 1
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
            "OpeningRequested": self.part,
            "PartialsAnnounced": self.combine,
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

    def encrypted(self, training: bytes, attempt: int, seconds: float, voids: Any, evidence: Any) -> Any:
        assert training == told(self.terms)
        assert self.terms["scheme"]["key"] == self.key.id
        parameters = hashed(
            "paillier parameters", self.word_bits, self.cohort, self.key.bits, len(self.integers)
        )
        self.round_id = hashed("encrypted round", [training, attempt, seconds], self.key.id, parameters)
        opened = []
        rows = range(0, len(self.integers), self.entries)
        drawn = hashlib.shake_256(hashed("paillier check lanes", parameters, self.round_id)).digest(
            8 * len(rows)
        )
        self.checks = [
            int.from_bytes(drawn[at : at + 8], "little") % (2 * self.bias + 1) - self.bias
            for at in range(0, len(drawn), 8)
        ]
        for start, check in zip(rows, self.checks, strict=True):
            lanes = [check, *self.integers[start : start + self.entries]]
            packed = sum((value + self.bias) << self.lane * at for at, value in enumerate(lanes))
            opened.append((packed, self.draw(self.key.bits // 16)))
        data = b"".join(self.key.encrypt(*each) for each in opened)
        self.count = len(opened)
        if isinstance(self.key, KeyShare):
            context = hashed("paillier upload", self.key.id, parameters, self.round_id, self.name)
            fresh = self.draw(self.key.bits // 8 + 16 + self.key.bits // 16 + 36)
            data += self.key.known(opened, data, context, fresh)
        digest = blake3(data).digest()
        self.box = self.draw(32) if isinstance(self.key, KeyShare) else None
        box = None if self.box is None else public(self.box)
        signed = self.key.id, parameters, self.round_id, self.name, len(data), digest, box or b""
        upload = {"content": digest, "box": box, "signature": self.sign("upload", *signed)}
        ciphertexts = ["u1", len(data), digest]
        reply = {"type": "EncryptedInput", "round_id": self.round_id, "upload": upload}
        said = head(self.identity, self.name, self.ledger, self.round_id)
        return reply | {"ciphertexts": ciphertexts, "head": said, "data": data}

    def check(self, round_id: bytes, uploads: list[Any], heads: Any) -> Any:
        named = [[silo, upload["content"], upload["box"] or b""] for silo, upload in uploads]
        self.survivors = [silo for silo, _ in uploads]
        self.boxes = {silo: upload["box"] for silo, upload in uploads}
        signature = self.sign("survivors", hashed("uploads", round_id, named), self.survivors)
        return {"type": "ConsistencyCheck", "round_id": round_id, "signature": signature}

    def open(self, round_id: bytes, signatures: Any, total: Any, payload: bytes) -> None:
        assert isinstance(self.key, WholeKey)
        self.unpack([self.key.open(ciphertext) for ciphertext in self.key.read(payload)])

    def part(self, round_id: bytes, signatures: Any, ciphertexts: Any, payload: bytes) -> Any:
        key = self.key
        assert isinstance(key, KeyShare)
        size, end = len(payload) // len(self.survivors), self.count * key.bits // 4
        sent = [payload[start : start + end] for start in range(0, len(payload), size)]
        uploads = np.array([key.read(one) for one in sent], object)
        self.ciphertexts = [int(number) % key.squared for number in np.multiply.reduce(uploads)]
        while int.from_bytes(self.draw(key.bits // 8), "big") >= key.n:
            pass  # What this library blinds the ciphertext with; no byte that is sent depends on it.
        partials = [key.partial(ciphertext) for ciphertext in self.ciphertexts]
        proof = key.proof(round_id, self.ciphertexts, partials, self.draw(key.z // 8 + 1))
        self.own, seal = key.written(*partials) + proof, self.draw(32)
        boxes = [
            [silo, AESGCM(self.opener(self.name, silo)).encrypt(bytes(12), seal, None)] for silo in self.boxes
        ]
        data = AESGCM(seal).encrypt(bytes(12), self.own, None)
        reply = {"type": "PartialDecryption", "round_id": round_id, "boxes": boxes}
        return reply | {"sealed": ["u1", len(data), blake3(data).digest()], "data": data}

    def opener(self, sender: str, recipient: str) -> bytes:
        assert self.box is not None
        peer = recipient if sender == self.name else sender
        shared = exchange(self.box, self.boxes[peer])
        return hkdf(shared, "partial decryption", self.round_id, sender, recipient)

    def combine(self, round_id: bytes, boxes: list[Any], sealed: Any, payload: bytes) -> None:
        key, parts = self.key, {self.name: self.own}
        assert isinstance(key, KeyShare)
        size = len(payload) // len(boxes)
        for at, (silo, box) in enumerate(boxes):
            seal = AESGCM(self.opener(silo, self.name)).decrypt(bytes(12), box, None)
            parts[silo] = AESGCM(seal).decrypt(bytes(12), payload[size * at : size * (at + 1)], None)
        right = {}
        for silo, part in parts.items():
            party = self.slots[silo] + 1
            partials = key.holds(party, round_id, self.ciphertexts, part)
            assert partials is not None
            right[party] = partials
        self.unpack(key.combine(dict(list(right.items())[-key.threshold :])))

    def unpack(self, plaintexts: list[int]) -> None:
        integers = []
        for plaintext, written in zip(plaintexts, self.checks, strict=True):
            check, *lanes = (
                plaintext >> self.lane * at & (2**self.lane - 1) for at in range(self.entries + 1)
            )
            assert plaintext < 2 ** ((self.entries + 1) * self.lane)
            assert check == len(self.survivors) * (written + self.bias)
            integers += lanes
        *found, count = (lane - len(self.survivors) * self.bias for lane in integers[: len(self.integers)])
        assert not any(integers[len(self.integers) :])
        assert count == len(self.survivors)
        self.total = found
