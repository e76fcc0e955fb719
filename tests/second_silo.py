"""A second silo, written from docs/protocol.md and docs/wire.md alone: nothing of ``secagg`` is imported.

It follows an honest attempt and refuses nothing; what it shows is that the pages say every byte.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

PRIME = 2**256 + 297
SPAN = 2**22

Ledger = tuple[str, int, bytes]
"""Name of the data set, entries, chain."""


def framed(value: Any) -> bytes:
    """Section 2."""
    match value:
        case bytes():
            tag, body = b"b", value
        case str():
            tag, body = b"s", value.encode()
        case int():
            tag, body = b"i", value.to_bytes(abs(value).bit_length() // 8 + 1, "big", signed=True)
        case float():
            tag, body = b"f", struct.pack(">d", value)
        case None:
            tag, body = b"0", b""
        case _:
            tag, body = b"(", b"".join(map(framed, value))
    return tag + struct.pack(">Q", len(body)) + body


def frame(label: str, *fields: Any) -> bytes:
    return b"".join(map(framed, ("secagg/1", label, *fields)))


def hashed(label: str, *fields: Any) -> bytes:
    return hashlib.sha256(frame(label, *fields)).digest()


def told(terms: dict[str, Any]) -> bytes:
    """The training digest; section 2."""
    scheme, encoding, noise = terms["scheme"], terms["encoding"], terms["privacy"]
    names = [terms[key] for key in ("federation", "job", "round", "kind", "release", "roster", "base")]
    cohort = [scheme["cohort"][key] for key in ("n", "c", "t", "k_min")] if "cohort" in scheme else []
    protection = [scheme["type"], *cohort, *([scheme["key"]] if "key" in scheme else [])]
    segments = [
        [s[key] for key in ("name", "length", "bound", "fraction_bits")] for s in encoding["segments"]
    ]
    numbers = [encoding["word_bits"], encoding["cohort"], encoding["weight_cap"], segments]
    privacy = [] if noise is None else list(noise.values())
    return hashed("training", *names, protection, numbers, terms["training"], privacy)


def locked(terms: dict[str, Any]) -> bytes:
    """What a sum under these terms locks; section 6."""
    release = terms["release"]
    return terms["base"] if release == 1 else hashed("release", terms["base"], release)


def hkdf(secret: bytes, purpose: str, *context: Any) -> bytes:
    return HKDF(SHA256(), 32, None, frame(purpose, *context, 32)).derive(secret)


def shares(secret: bytes, t: int, slots: dict[str, int], draw: Callable[[int], bytes]) -> dict[str, bytes]:
    higher = [int.from_bytes(draw(48), "big") for _ in range(t - 1)]
    coefficients = [*higher, int.from_bytes(secret, "big")]
    return {
        name: (sum(c * pow(slot + 1, t - 1 - i, PRIME) for i, c in enumerate(coefficients)) % PRIME).to_bytes(
            33
        )
        for name, slot in slots.items()
    }


def stream(key: bytes, length: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    assert length <= SPAN
    span = HKDFExpand(SHA256(), 32, b"span" + bytes(4)).derive(key)
    return np.frombuffer(AESGCM(span).encrypt(bytes(12), bytes(4 * length), None)[:-16], "<u4")


class SecondSilo:
    """One silo in one attempt: header and payload in, header and payload out."""

    def __init__(
        self,
        name: str,
        *,
        identity: bytes,
        roster: list[tuple[str, bytes]],
        opened: bytes,
        vector: bytes,
        random: bytes,
        ledger: Ledger | None = None,
    ) -> None:
        self.name, self.random, self.vector = name, random, np.frombuffer(vector, "<u4")
        self.ledger = ledger
        self.identity = Ed25519PrivateKey.from_private_bytes(identity)
        self.slots = {silo: slot for slot, (silo, _) in enumerate(roster)}
        self.terms = msgspec.msgpack.decode(opened[1:])["terms"]
        self.t = self.terms["scheme"]["cohort"]["t"]

    def draw(self, size: int) -> bytes:
        drawn, self.random = self.random[:size], self.random[size:]
        return drawn

    def receive(self, header: bytes) -> tuple[bytes, bytes | None] | None:
        message = msgspec.msgpack.decode(header[1:])
        steps: dict[str, Callable[..., Any]] = {
            "TrainingOpened": self.ready,
            "RoundOpened": self.advertise,
            "KeysAnnounced": self.share,
            "SharesAnnounced": self.masked,
            "SurvivorsAnnounced": self.check,
            "UnmaskingRequested": self.unmask,
            "SumOpened": self.finish,
        }
        reply = steps[message.pop("type")](**message)
        if reply is None:
            return None
        payload = reply.pop("payload", None)
        return b"\x01" + msgspec.msgpack.encode(reply), payload

    def sign(self, label: str, *fields: Any) -> bytes:
        return self.identity.sign(frame(label, *fields))

    def ready(self, terms: dict[str, Any], seconds: float) -> Any:
        return {"type": "Ready", "training": told(terms)}

    def advertise(self, training: bytes, attempt: int, seconds: float, voids: Any, evidence: Any) -> Any:
        assert training == told(self.terms)
        self.descriptor = hashed("descriptor", training, attempt, seconds)
        self.box, self.mask = self.draw(32), self.draw(32)
        bundle = {"box": public(self.box), "mask": public(self.mask), "nonce": self.draw(32)}
        bundle["signature"] = self.sign("advertise keys", self.descriptor, self.name, *bundle.values())
        return {"type": "AdvertiseKeys", "bundle": bundle}

    def share(self, bundles: list[Any]) -> Any:
        self.peers = dict(bundles)
        self.session = hashed("session", self.descriptor, [[silo, *b.values()] for silo, b in bundles])
        self.seed = self.draw(32)
        slots = {silo: self.slots[silo] for silo, _ in bundles}
        secrets = (("seed", self.seed), ("mask", self.mask))
        dealt = {kind: shares(secret, self.t, slots, self.draw) for kind, secret in secrets}
        self.openings: dict[str, Any] = {}
        entries, boxes = [], []
        for silo in slots:
            made = {kind: {"share": dealt[kind][silo], "salt": self.draw(32)} for kind in ("seed", "mask")}
            sealed = (
                [b"", b""]
                if silo == self.name
                else [self.seal(silo, k, *o.values()) for k, o in made.items()]
            )
            committed = [
                hashed("share", self.session, self.name, silo, k, *o.values()) for k, o in made.items()
            ]
            entries.append([silo, *committed, *(hashed("box", box) for box in sealed)])
            if silo == self.name:
                self.openings[silo] = made
            else:
                boxes.append([silo, *sealed])
        fields = [public(self.mask), hashed("seed", self.session, self.name, self.seed), entries]
        names = ("recipient", "seed_commitment", "mask_commitment", "seed_box", "mask_box")
        share_set = {"mask": fields[0], "seed": fields[1]}
        share_set |= {"entries": [dict(zip(names, entry, strict=True)) for entry in entries]}
        share_set |= {"signature": self.sign("share keys", self.session, self.name, *fields)}
        return {"type": "ShareKeys", "share_set": share_set, "boxes": boxes}

    def seal(self, silo: str, kind: str, share: bytes, salt: bytes) -> bytes:
        shared = exchange(self.box, self.peers[silo]["box"])
        key = hkdf(shared, "share box", self.session, self.name, silo, kind)
        return AESGCM(key).encrypt(bytes(12), share + salt, None)

    def masked(self, share_sets: list[Any], boxes: list[Any]) -> Any:
        dealt = []
        for dealer, s in share_sets:
            entries = [list(entry.values()) for entry in s["entries"]]
            dealt.append([dealer, hashed("share set", self.session, dealer, s["mask"], s["seed"], entries)])
        self.round_id = hashed("round", self.session, dealt)
        for dealer, *sealed in boxes:
            shared = exchange(self.box, self.peers[dealer]["box"])
            self.openings[dealer] = {}
            for kind, box in zip(("seed", "mask"), sealed, strict=True):
                key = hkdf(shared, "share box", self.session, dealer, self.name, kind)
                plain = AESGCM(key).decrypt(bytes(12), box, None)
                self.openings[dealer][kind] = {"share": plain[:33], "salt": plain[33:]}
        self.members = [dealer for dealer, _ in share_sets]
        masked = np.append(self.vector, np.uint32(1))
        masked += stream(hkdf(self.seed, "self mask", self.round_id, self.name), masked.size)
        for peer in self.members:
            if peer != self.name:
                lower, higher = sorted((peer, self.name), key=self.slots.__getitem__)
                shared = exchange(self.mask, self.peers[peer]["mask"])
                words = stream(hkdf(shared, "pairwise mask", self.round_id, lower, higher), masked.size)
                masked += words if lower == self.name else -words
        payload = masked.tobytes()
        vector = ["u4", masked.size, blake3(payload).digest()]
        said = head(self.identity, self.name, self.ledger, self.round_id)
        reply = {"type": "MaskedInput", "round_id": self.round_id, "vector": vector, "head": said}
        return reply | {"payload": payload}

    def check(self, round_id: bytes, survivors: list[str], heads: Any) -> Any:
        signature = self.sign("survivors", round_id, survivors)
        return {"type": "ConsistencyCheck", "round_id": round_id, "signature": signature}

    def unmask(self, round_id: bytes, survivors: list[str], signatures: Any) -> Any:
        given = [[p, self.openings[p]["seed" if p in survivors else "mask"]] for p in self.members]
        return {"type": "Unmasking", "round_id": round_id, "openings": given}

    def finish(self, **_: Any) -> None:
        """Nothing is sent after the sum."""


def head(identity: Ed25519PrivateKey, silo: str, ledger: Ledger | None, round_id: bytes) -> Any:
    """How far a ledger is; section 11."""
    if ledger is None:
        return None
    name, entries, chain = ledger
    data_set = hashed("data set", silo, name)
    signature = identity.sign(frame("ledger head", silo, data_set, entries, chain, round_id))
    return {"data_set": data_set, "entries": entries, "chain": chain, "signature": signature}


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def exchange(private: bytes, peer: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer))
