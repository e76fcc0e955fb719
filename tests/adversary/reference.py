"""A second implementation of everything that masking derives, and one round with fixed randomness to compare.

It shares no code with the product: frames by ``struct``, HKDF by ``hmac``, X25519 by integers, streams by
counter blocks one at a time. Its own primitives are held to published answers by ``published``.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray

from secagg.cohort import Cohort
from secagg.fixedpoint import Encoding, Segment
from secagg.hazmat.identity import IdentityKey
from secagg.masking.coordinator import MaskingCoordinator
from secagg.masking.silo import MaskingSilo
from secagg.messages import FromSilo, KeyBundle, MaskedInput, RoundOpened, ShareKeys, SumOpened
from secagg.names import RandomSource, SiloId, WordBits
from secagg.roster import Roster
from secagg.survivors import Locks
from secagg.terms import MaskingParameters, Terms

FIELD_PRIME = 2**255 - 19
SHARE_PRIME = 2**256 + 297
SPAN = 2**22


# --- primitives ----------------------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def field(value: Any) -> bytes:
    """Tag, eight bytes of length, body."""
    if isinstance(value, bool):
        raise TypeError("no frame of the protocol holds a bool")
    if isinstance(value, bytes):
        tag, body = b"b", value
    elif isinstance(value, str):
        tag, body = b"s", value.encode()
    elif isinstance(value, int):
        size = 1
        while not -(1 << 8 * size - 1) <= value < 1 << 8 * size - 1:
            size += 1
        tag, body = b"i", value.to_bytes(size, "big", signed=True)
    elif isinstance(value, float):
        tag, body = b"f", struct.pack(">d", value)
    else:
        tag, body = b"(", b"".join(field(part) for part in value)
    return tag + struct.pack(">Q", len(body)) + body


def framed(label: str, *fields: Any) -> bytes:
    return b"".join(field(part) for part in ("secagg/1", label, *fields))


def hkdf(secret: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869 with SHA-256 and no salt."""
    key = hmac.digest(bytes(32), secret, "sha256")
    block, made = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        made += block
    return made[:length]


def x25519(scalar: bytes, point: bytes) -> bytes:
    """RFC 7748, section 5: the Montgomery ladder."""
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    x1 = int.from_bytes(point, "little") & (1 << 255) - 1
    x2, z2, x3, z3 = 1, 0, x1, 1
    for i in reversed(range(255)):
        bit = k >> i & 1
        if bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        e, da, cb = a * a - b * b, d * a, c * b
        x3, z3 = (da + cb) ** 2 % FIELD_PRIME, x1 * (da - cb) ** 2 % FIELD_PRIME
        x2, z2 = a * a * b * b % FIELD_PRIME, e * (a * a + 121665 * e) % FIELD_PRIME
        if bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, -1, FIELD_PRIME) % FIELD_PRIME if z2 % FIELD_PRIME else 0).to_bytes(32, "little")


def public(scalar: bytes) -> bytes:
    return x25519(scalar, (9).to_bytes(32, "little"))


def counter_blocks(key: bytes, first: int, count: int) -> bytes:
    """AES-256 of ``0^96 || first``, ``0^96 || first + 1``, ..., each block by itself."""
    counters = np.zeros((count, 4), ">u4")
    counters[:, 3] = np.arange(first, first + count)
    encryptor = Cipher(AES(key), ECB()).encryptor()  # noqa: S305 - the bare block cipher is what is wanted
    return encryptor.update(counters.tobytes())


def stream(key: bytes, length: int, word_bits: int = 32) -> NDArray[Any]:
    """The mask stream of ``key``: a key for each span, counter blocks from 2, little-endian words."""
    size, made = word_bits // 8, b""
    for span in range(-(-length // SPAN)):
        wanted = min(SPAN, length - span * SPAN) * size
        span_key = hmac.digest(key, b"span" + struct.pack(">I", span) + b"\x01", "sha256")
        made += counter_blocks(span_key, 2, -(-wanted // 16))[:wanted]
    return np.frombuffer(made, f"<u{size}")


def published() -> None:
    """Hold the primitives above to FIPS 197 C.3, the GCM proposal's case 14, RFC 5869 A.3, RFC 7748 6.1."""
    encryptor = Cipher(AES(bytes(range(32))), ECB()).encryptor()  # noqa: S305
    block = encryptor.update(bytes.fromhex("00112233445566778899aabbccddeeff"))
    assert block.hex() == "8ea2b7ca516745bfeafc49904b496089"
    assert counter_blocks(bytes(32), 2, 1).hex() == "cea7403d4d606b6e074ec5d3baf39d18"
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    assert public(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert x25519(alice, bob).hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


# --- one round with fixed randomness -------------------------------------------------------------------

# Not in alphabetical order, so that sorting ids is not the same as roster order.
SILOS: tuple[SiloId, ...] = ("west", "east", "north", "south")
LOST: SiloId = "north"
T = 3
LENGTH = 9
ATTEMPT, SECONDS = 2, 1.5
BASE = sha256(b"base")


class Tape:
    """A fixed random source that remembers where it is: SHAKE-256 of a name."""

    def __init__(self, name: str) -> None:
        self._bytes = hashlib.shake_256(name.encode()).digest(8192)
        self._at = 0

    def __call__(self, count: int) -> bytes:
        self._at += count
        return self._bytes[self._at - count : self._at]


@dataclass(frozen=True)
class Secrets:
    """What one silo draws in an attempt, in the order in which the protocol asks for it."""

    box: bytes
    mask: bytes
    nonce: bytes
    seed: bytes
    seed_coefficients: tuple[int, ...]
    mask_coefficients: tuple[int, ...]
    salts: Mapping[SiloId, tuple[bytes, bytes]]  # of the seed share, of the mask share


def secrets(silo: SiloId) -> Secrets:
    draw: RandomSource = Tape(silo)
    box, mask, nonce, seed = draw(32), draw(32), draw(32), draw(32)
    seed_coefficients, mask_coefficients = (
        tuple(int.from_bytes(draw(48), "big") % SHARE_PRIME for _ in range(T - 1)) for _ in range(2)
    )
    salts = {peer: (draw(32), draw(32)) for peer in SILOS}
    return Secrets(box, mask, nonce, seed, seed_coefficients, mask_coefficients, salts)


def share(secret: bytes, coefficients: tuple[int, ...], index: int) -> bytes:
    """The value at ``index`` of the polynomial with the secret at 0; highest degree first."""
    powers = range(len(coefficients), 0, -1)
    value: int = sum(c * index**power for c, power in zip(coefficients, powers, strict=True))
    return ((value + int.from_bytes(secret, "big")) % SHARE_PRIME).to_bytes(33, "big")


def identity(silo: SiloId) -> IdentityKey:
    return IdentityKey.from_private_bytes(sha256(silo.encode()))


def vector(silo: SiloId, word_bits: int) -> NDArray[Any]:
    """What a silo has to say: both signs, large and small."""
    rng = np.random.default_rng(SILOS.index(silo))
    return rng.integers(-1000, 1000, LENGTH).astype(f"i{word_bits // 8}").view(f"u{word_bits // 8}")


def roster() -> Roster:
    return Roster.of({silo: identity(silo).public for silo in SILOS})


def terms(word_bits: WordBits) -> Terms:
    return Terms(
        federation="clinics",
        job="first",
        round=3,
        kind="train",
        release=1,
        roster=roster().digest,
        base=BASE,
        scheme=MaskingParameters(Cohort(n=4, c=1, t=T, k_min=2)),
        encoding=Encoding(word_bits, 4, (Segment("update", LENGTH - 1, 1000.0, 0), Segment("w", 1, 1.5, 9))),
        training=(("learning_rate", 0.5), ("epochs", 2)),
    )


@dataclass(frozen=True)
class Round:
    """What was sent in the fixed round."""

    bundles: Mapping[SiloId, KeyBundle]
    shares: Mapping[SiloId, ShareKeys]
    inputs: Mapping[SiloId, MaskedInput]
    survivor_signatures: Mapping[SiloId, bytes]
    opened: SumOpened


def fixed_round(word_bits: WordBits) -> Round:
    """Run the product's two halves on fixed randomness; ``LOST`` is lost once its shares are dealt."""
    pinned, agreed = roster(), terms(word_bits)
    coordinator = MaskingCoordinator(pinned, terms=agreed, attempt=ATTEMPT, seconds=SECONDS, threads=1)
    silos = {
        silo: MaskingSilo(
            silo,
            identity=identity(silo),
            roster=pinned,
            terms=agreed,
            vector=vector(silo, word_bits),
            locks=Locks(),
            data_set="default",
            random=Tape(silo),
            threads=1,
        )
        for silo in SILOS
    }
    sent: dict[str, dict[SiloId, Any]] = {}
    outbox = dict(coordinator.open(0.0).output)
    assert all(isinstance(message, RoundOpened) for message in outbox.values())
    while not isinstance(next(iter(outbox.values())), SumOpened):
        for silo, message in outbox.items():
            reply: FromSilo | None = silos[silo].receive(message).output
            assert reply is not None
            sent.setdefault(type(reply).__name__, {})[silo] = reply
            if silo == LOST and isinstance(reply, MaskedInput):
                coordinator.lose(silo)
            else:
                coordinator.receive(silo, reply)
        outbox = dict(coordinator.advance(0.0).output)
    opened = outbox[SILOS[0]]
    assert isinstance(opened, SumOpened)
    return Round(
        {silo: reply.bundle for silo, reply in sent["AdvertiseKeys"].items()},
        sent["ShareKeys"],
        sent["MaskedInput"],
        {silo: reply.signature for silo, reply in sent["ConsistencyCheck"].items()},
        opened,
    )


# --- the same round, derived by hand -------------------------------------------------------------------

PROTECTION = ("masking", 4, 1, T, 2)
SETTINGS = (("learning_rate", 0.5), ("epochs", 2))


def sign(silo: SiloId, label: str, *fields: Any) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(sha256(silo.encode())).sign(framed(label, *fields))


def training(word_bits: int) -> bytes:
    encoding = (word_bits, 4, 1.0, (("update", LENGTH - 1, 1000.0, 0), ("w", 1, 1.5, 9)))
    pins = sha256(framed("roster", tuple((silo, identity(silo).public) for silo in SILOS)))
    return sha256(
        framed("training", "clinics", "first", 3, "train", 1, pins, BASE, PROTECTION, encoding, SETTINGS, ())
    )


def descriptor(word_bits: int) -> bytes:
    return sha256(framed("descriptor", training(word_bits), ATTEMPT, SECONDS))


def bundle(silo: SiloId, word_bits: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Box key, mask key, nonce, signature."""
    own = secrets(silo)
    keys = public(own.box), public(own.mask), own.nonce
    return *keys, sign(silo, "advertise keys", descriptor(word_bits), silo, *keys)


def session(word_bits: int) -> bytes:
    bundles = tuple((silo, *bundle(silo, word_bits)) for silo in SILOS)
    return sha256(framed("session", descriptor(word_bits), bundles))


def box_key(session: bytes, sender: SiloId, recipient: SiloId, kind: str) -> bytes:
    agreed = x25519(secrets(sender).box, public(secrets(recipient).box))
    return hkdf(agreed, framed("share box", session, sender, recipient, kind, 32))


def opening(dealer: SiloId, recipient: SiloId, kind: str) -> tuple[bytes, bytes]:
    """Share and salt."""
    own, index = secrets(dealer), SILOS.index(recipient) + 1
    if kind == "seed":
        return share(own.seed, own.seed_coefficients, index), own.salts[recipient][0]
    return share(own.mask, own.mask_coefficients, index), own.salts[recipient][1]


def commitment(session: bytes, dealer: SiloId, recipient: SiloId, kind: str) -> bytes:
    return sha256(framed("share", session, dealer, recipient, kind, *opening(dealer, recipient, kind)))


def box(session: bytes, dealer: SiloId, recipient: SiloId, kind: str) -> bytes:
    """The sealed opening without its tag: plaintext xor the counter blocks from 2."""
    plain = b"".join(opening(dealer, recipient, kind))
    pad = counter_blocks(box_key(session, dealer, recipient, kind), 2, -(-len(plain) // 16))
    return bytes(a ^ b for a, b in zip(plain, pad, strict=False))


def share_set_fields(session: bytes, dealer: SiloId, boxes: Mapping[SiloId, tuple[bytes, bytes]]) -> Any:
    """What a dealer signs; ``boxes`` as sent, because tags are not made here."""
    own = secrets(dealer)
    entries = tuple(
        (
            peer,
            commitment(session, dealer, peer, "seed"),
            commitment(session, dealer, peer, "mask"),
            *(sha256(framed("box", sealed)) for sealed in boxes.get(peer, (b"", b""))),
        )
        for peer in SILOS
    )
    seed = sha256(framed("seed", session, dealer, own.seed))
    return session, dealer, public(own.mask), seed, entries


def round_id(session: bytes, shares: Mapping[SiloId, ShareKeys]) -> bytes:
    announced = []
    for dealer in SILOS:
        boxes = {peer: (seed, mask) for peer, seed, mask in shares[dealer].boxes}
        announced.append((dealer, sha256(framed("share set", *share_set_fields(session, dealer, boxes)))))
    return sha256(framed("round", session, tuple(announced)))


def self_stream(round_id: bytes, silo: SiloId) -> bytes:
    return hkdf(secrets(silo).seed, framed("self mask", round_id, silo, 32))


def pair_stream(round_id: bytes, lower: SiloId, higher: SiloId) -> bytes:
    agreed = x25519(secrets(lower).mask, public(secrets(higher).mask))
    return hkdf(agreed, framed("pairwise mask", round_id, lower, higher, 32))


def total(silos: tuple[SiloId, ...], word_bits: int) -> NDArray[Any]:
    """The sum of what ``silos`` have to say."""
    summed = np.zeros(LENGTH, f"u{word_bits // 8}")
    for silo in silos:
        summed += vector(silo, word_bits)
    return summed


def masked(round_id: bytes, silo: SiloId, word_bits: int) -> NDArray[Any]:
    """The vector and its count entry under the silo's own stream and one of each peer."""
    upload = np.append(vector(silo, word_bits), np.array([1], f"u{word_bits // 8}"))
    upload += stream(self_stream(round_id, silo), LENGTH + 1, word_bits)
    slot = SILOS.index(silo)
    for peer in SILOS[:slot]:
        upload -= stream(pair_stream(round_id, peer, silo), LENGTH + 1, word_bits)
    for peer in SILOS[slot + 1 :]:
        upload += stream(pair_stream(round_id, silo, peer), LENGTH + 1, word_bits)
    return upload
