"""Attack ``decode_fuzz``: bytes that are nearly a message, to crash, fill memory or mean two things.

Frames of real rounds, one of every type at least, are mutated: bits, cuts, splices, lengths that promise
gigabytes, other type names, deep nesting, other values in well-formed MessagePack. Each must be refused as
``MalformedMessage``, or be a message that encodes to the very same frame. What a decoder still lets through
goes to sessions in the middle of a round: they refuse by name, and whatever sum is opened is a right one.
"""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from secagg import wire
from secagg.errors import FaultySilo, MalformedMessage, RoundAborted
from secagg.keys.joiner import KeyJoiner, forward_key
from secagg.masking.params import Masking
from secagg.messages import (
    AggregateAnnounced,
    BaseAsked,
    BaseForwarded,
    BaseRequested,
    BaseSealed,
    BaseSent,
    BaseWanted,
    BoxReport,
    DealerEvidence,
    EncryptedInput,
    KeyAsked,
    KeyPassed,
    Opened,
    OpeningRequested,
    PartialDecryption,
    PartialsAnnounced,
    Refused,
    RoundOpened,
    ShareKeys,
    SignedUpload,
    Unmasking,
    UploadsAnnounced,
)
from secagg.payload import Frame, Payload
from secagg.plain import Plain
from tests.ceremonies import IDENTITIES, NOW, POLICY, ROSTER, Ceremony
from tests.counts import count
from tests.federations import MODEL, Driver, Federation, Tamper, TamperedSilo
from tests.samples import FROM_COORDINATOR, FROM_SILO

FRAMES = count(4_000, full=100_000)
ROUNDS = count(60, full=1_000)
SEED = 20

CEILING = 1 << 16
"""Bytes of memory that decoding may take beside ``GROWTH`` times the frame."""
GROWTH = 32
"""A two-letter name is three bytes in a frame and some sixty in memory; nothing grows more."""

Bytes = tuple[bytes, bytes | None]
NAMES = [kind.__name__ for kind in (*FROM_SILO, *FROM_COORDINATOR)]


def ciphertexts() -> list[Any]:
    """Return every message of rounds over ciphertexts, and of a base that a peer sends."""
    data, words = Payload.of(np.arange(99, dtype=np.uint8)), Payload.of(np.arange(9, dtype=np.uint64))
    key, signature, sealed = bytes(range(32)), bytes(range(64)), (("west", bytes(range(48))),)
    upload, signed = SignedUpload(data.digest, key, signature), (("west", signature),)
    return [
        BaseWanted(key, key, signature),
        BaseAsked(key, "west", key, signature),
        BaseSealed(key, "west", key, key, data),
        BaseForwarded(key, "east", key, data),
        EncryptedInput(key, upload, data),
        EncryptedInput(key, SignedUpload(words.digest, None, signature), words),
        UploadsAnnounced(key, (("east", upload), ("west", upload))),
        AggregateAnnounced(key, signed, words),
        OpeningRequested(key, signed, data),
        PartialDecryption(key, sealed, data),
        PartialsAnnounced(key, sealed, data),
        Opened(key, key, ("west", "east"), ("west",)),
    ]


@cache
def corpus() -> tuple[Bytes, ...]:
    """Return frames of rounds with losses, voids, a refusal and evidence; of every type at least one."""
    messages: list[Any] = [Refused("lock", ("west", "east")), BoxReport(bytes(32), "west")]
    for scheme in (Masking(), Plain()):
        federation = Federation(4, scheme=scheme, seed=SEED)
        federation.work["north"].model = None
        coordinator = federation.coordinator()
        faults: Any = {("west", 1, "ConsistencyCheck"): "silent", ("east", 1, "ConsistencyCheck"): "silent"}
        assert Driver(coordinator, federation.silos, faults).run() is None
        messages += [message for _, message in coordinator.log]
    messages += ciphertexts()
    share_set = next(m.share_set for m in messages if isinstance(m, ShareKeys))
    openings = next(m.openings for m in messages if isinstance(m, Unmasking))
    evidence = DealerEvidence("west", bytes(32), share_set, "mask", openings)
    opened = next(m for m in messages if isinstance(m, RoundOpened))
    messages.append(RoundOpened(opened.training, 2, 60.0, (), (evidence,)))
    messages += [BaseRequested(MODEL.digest), BaseSent(MODEL.digest, MODEL)]
    messages += key_messages()
    assert {type(message).__name__ for message in messages} == set(NAMES)
    # As many frames of a rare type as of a common one.
    by_kind = {name: [m for m in messages if type(m).__name__ == name] for name in NAMES}
    chosen = [by_kind[name][i % len(by_kind[name])] for name in NAMES for i in range(8)]
    return tuple((header, None if p is None else bytes(p[:])) for header, p in map(wire.encode, chosen))


def key_messages() -> list[Any]:
    """Return what a key ceremony sends, and a silo that lost its key."""
    ceremony = Ceremony.of("paillier")
    key = ceremony.run()
    joiner = KeyJoiner(
        "a",
        key=key.document.key,
        scheme="paillier",
        identity=IDENTITIES["a"],
        roster=ROSTER,
        policy=POLICY,
        now=NOW,
    )
    wanted: Any = joiner.open().output
    asked = KeyAsked("a", wanted.key, wanted.sealing)
    forwarded: Any = forward_key(
        asked, ceremony.keyring("c"), silo="c", identity=IDENTITIES["c"], roster=ROSTER, now=NOW
    ).output
    fields = (getattr(forwarded, name) for name in forwarded.__struct_fields__)
    sent = [message for _, message in (*ceremony.told, *ceremony.replied)]
    return [*sent, wanted, asked, forwarded, KeyPassed("c", *fields)]


# --- mutations ----------------------------------------------------------------------------------------------

Random = np.random.Generator
T = TypeVar("T")
BOMBS = (
    b"\xdd\xff\xff\xff\xff",  # an array of 2**32 - 1 entries
    b"\xdd\x00\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdf\xff\xff\xff\xff",  # a map
    b"\xdb\xff\xff\xff\xff",  # text
    b"\xc6\xff\xff\xff\xff",  # bytes
    b"\xc9\xff\xff\xff\xff\x01",  # an extension
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**53, 2**63, 2**64 - 1, 0.0, 1.5, float("nan"), float("inf"), 1e308),
    *("", "x", "north", "a" * 65, "a\n", "seed", "u4", "f8", b"", b"x", bytes(31), bytes(32), bytes(64)),
    *([], {}, [[]], {"type": "Ready"}, [None] * 9, msgspec.msgpack.Ext(1, b"x"), ["u4", 2**31, bytes(32)]),
)


def pick(random: Random, options: Sequence[T]) -> T:
    return options[int(random.integers(len(options)))]


def flip(random: Random, header: bytes) -> bytes:
    changed = bytearray(header)
    for _ in range(random.integers(1, 9)):
        changed[random.integers(len(changed))] ^= 1 << random.integers(8)
    return bytes(changed)


def cut(random: Random, header: bytes) -> bytes:
    start, end = sorted(random.integers(0, len(header) + 1, 2))
    return pick(random, (header[:start], header[:start] + header[end:], header[:end] + header[start:]))


def splice(random: Random, header: bytes) -> bytes:
    other, _ = pick(random, corpus())
    return header[: random.integers(len(header))] + other[random.integers(len(other)) :]


def bomb(random: Random, header: bytes) -> bytes:
    at = random.integers(1, len(header))
    return header[:at] + pick(random, BOMBS) + header[at + random.integers(0, 6) :]


def edge(random: Random, header: bytes) -> bytes:
    changed = bytearray(header)
    changed[random.integers(len(changed))] = pick(random, (0x00, 0x7F, 0x80, 0x90, 0xC0, 0xFF))
    return bytes(changed)


def retype(random: Random, header: bytes) -> bytes:
    tree = msgspec.msgpack.decode(header[1:])
    tree["type"] = pick(random, NAMES)
    return wire.VERSION + msgspec.msgpack.encode(tree)


def nest(random: Random, header: bytes) -> bytes:
    at = random.integers(1, len(header))
    deep = pick(random, (b"\x91", b"\x81\xa1a", b"\x92\xc0"))
    return header[:at] + deep * int(10 ** random.uniform(0, 4.5)) + header[at:]


def edit(random: Random, header: bytes) -> bytes:
    """Well-formed MessagePack with one value changed, added or taken away, at any depth."""
    tree = msgspec.msgpack.decode(header[1:])
    holder, key = tree, pick(random, list(tree))
    while isinstance(holder[key], list | dict) and holder[key] and random.random() < 0.9:
        holder = holder[key]
        key = random.integers(len(holder)) if isinstance(holder, list) else pick(random, list(holder))
    value = holder[key]
    choice = random.integers(5)
    if choice == 0:
        del holder[key]
    elif choice == 1 and isinstance(holder, list):
        holder.insert(key, value)
    elif choice == 2 and isinstance(value, bytes) and value:
        holder[key] = flip(random, value)
    elif choice == 3 and isinstance(holder, list):
        holder.reverse()
    else:
        holder[key] = pick(random, VALUES)
    return wire.VERSION + msgspec.msgpack.encode(tree)


def promise(random: Random, header: bytes) -> bytes:
    """Announce a payload of another type or length, under its own digest or another."""
    tree = msgspec.msgpack.decode(header[1:])
    name = next(key for key in ("vector", "total") if key in tree)
    dtype, length, digest = tree[name]
    kinds, lengths = ("u4", "u8", "f8", dtype), (length, length - 1, 2 * length, 2**24, 2**31, 2**62, -length)
    tree[name] = [pick(random, kinds), pick(random, lengths), pick(random, (digest, flip(random, digest)))]
    return wire.VERSION + msgspec.msgpack.encode(tree)


HEADERS: tuple[Callable[[Random, bytes], bytes], ...] = (flip, cut, splice, bomb, edge, retype, nest, edit)
PROMISES = (*HEADERS, promise, promise)


def mutated(random: Random, frame: Bytes) -> Bytes:
    header, payload = frame
    if payload is not None and random.random() < 0.3:
        if random.random() < 0.5:
            return header, pick(random, (None, b"", payload[:-1], payload[:-4], payload + payload))
        return header, flip(random, payload)
    if payload is None and random.random() < 0.05:
        return header, b""
    kinds = HEADERS if payload is None else PROMISES
    for _ in range(1 + (random.random() < 0.2)):
        try:
            header = pick(random, kinds)(random, header) or header
        except (msgspec.MsgspecError, RecursionError, TypeError, KeyError, ValueError, StopIteration):
            break  # After a first mutation it may no longer be a map with a type.
    return header, payload


# --- the attack ---------------------------------------------------------------------------------------------


def measured(decode: Callable[..., Any], header: bytes, view: memoryview | None) -> tuple[Any, int]:
    """Decode; return the message, None if it was refused, and the bytes that it took at the most."""
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    message = None
    try:
        message = decode(header, view)
    except MalformedMessage:
        pass
    except Exception as error:
        raise AssertionError(f"leaked {type(error).__name__}") from error
    _, peak = tracemalloc.get_traced_memory()
    return message, peak - before


def attack(frame: Bytes) -> int:
    """Decode at both roles; return how many of them took the frame."""
    header, payload = frame
    view = None if payload is None else memoryview(payload)
    taken = 0
    for decode in (wire.decode_from_silo, wire.decode_from_coordinator):
        message, grown = measured(decode, header, view)
        if grown > CEILING + GROWTH * len(header):
            # Threads of earlier tests are traced, too; what a frame takes, it takes each time.
            grown = min(measured(decode, header, view)[1] for _ in range(5))
        assert grown <= CEILING + GROWTH * len(header), "a frame grew when it was decoded"
        if message is not None:
            taken += 1
            again, same = wire.encode(message)
            assert again == header, "two frames for one message"
            assert (None if same is None else bytes(same[:])) == payload, "another payload than came"
            vector: Payload | None = getattr(message, "vector", getattr(message, "total", None))
            if vector is not None and payload is not None:
                assert vector.size == len(payload), "another payload than announced"
                assert vector.digest == blake3(payload).digest(), "another payload than announced"
    return taken


def test_decode_fuzz() -> None:
    for frame in corpus():
        assert attack(frame) == 1  # The control: unchanged, each frame is taken, by one role.
    random = np.random.default_rng(SEED)
    taken = 0
    tracemalloc.start()
    try:
        for frame in itertools.islice(itertools.cycle(corpus()), FRAMES):
            taken += attack(mutated(random, frame))
    finally:
        tracemalloc.stop()
    # Some mutants are messages (a flipped bit of a signature), so both verdicts were reached.
    assert FRAMES // 50 < taken < FRAMES // 2


def any_payload(value: Any, payload: memoryview | None) -> Payload:
    """Believe what was announced."""
    dtype, length, digest = value
    return Payload.over(dtype, length, payload or memoryview(b""), digest=digest)


def payload_with_room_made_first(value: Any, payload: memoryview | None) -> Payload:
    """Believe the announced length before the bytes are there."""
    match value:
        case [str(), int(length), bytes()] if length > 0:
            np.zeros(min(length, 1 << 24), np.uint32)
    return attach(value, payload)


def any_order(header: bytes, payload: memoryview | None, kind: Any) -> Any:
    """Take whatever MessagePack has the fields, and forget what else is in the frame."""

    def hook(_: type, value: Any) -> Payload:
        return attach(value, payload)

    try:
        return msgspec.msgpack.decode(header[1:], type=kind, dec_hook=hook)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedMessage("text") from error


def errors_of_the_library(header: bytes, payload: memoryview | None, kind: Any) -> Any:
    """Let the errors of the MessagePack library out."""

    def hook(_: type, value: Any) -> Payload:
        return attach(value, payload)

    return msgspec.msgpack.decode(header[1:], type=kind, dec_hook=hook)


attach = wire._attach


@pytest.mark.parametrize(
    ("defence", "mutant", "broken"),
    [
        ("secagg.wire._attach", any_payload, "another payload than|leaked"),
        ("secagg.wire._attach", payload_with_room_made_first, "a frame grew"),
        ("secagg.wire.decode_as", any_order, "two frames for one message|another payload than came"),
        ("secagg.wire.decode_as", errors_of_the_library, "leaked"),
    ],
)
def test_decode_fuzz_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, broken: str) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=broken):
        test_decode_fuzz()


# --- what is still a message --------------------------------------------------------------------------------


class Spoiler:
    """Puts one changed message, which still is one, in place of the n-th of a silo."""

    def __init__(self, random: Random, number: int) -> None:
        self.random = random
        self.left = number
        self.changed = False

    def __call__(self, frame: Frame, decode: Callable[..., object]) -> Frame:
        self.left -= 1
        header, payload = frame
        for _ in range(200 if self.left == 0 else 0):
            other = edit(self.random, header)
            try:
                decode(other, payload)
            except MalformedMessage:
                continue
            if other != header:
                self.changed = True
                return other, payload
        return frame


class SpoiledDownlink(TamperedSilo):
    """A silo to which one message comes otherwise than it was sent."""

    spoiler: Spoiler

    def deliver(self, frame: Frame) -> Frame | None:
        return super().deliver(self.spoiler(frame, wire.decode_from_coordinator))


def test_decode_fuzz_in_sessions() -> None:
    """One changed message a round, to a silo or from one: only refusals, and only right sums."""
    random = np.random.default_rng(SEED)
    opened = changed = 0
    for number in range(ROUNDS):
        federation = Federation(4, seed=number)
        victim = pick(random, federation.roster.silos)
        spoiler = Spoiler(random, int(random.integers(1, 7)))
        if number % 2:
            federation.silos[victim].tamper = upwards(spoiler)
        else:
            silo = federation.silos[victim] = SpoiledDownlink(federation.builder(victim))
            silo.spoiler = spoiler
        coordinator = federation.coordinator()
        try:
            total = federation.run(coordinator)
        except (RoundAborted, FaultySilo):
            continue
        except Exception as error:
            raise AssertionError(f"leaked {type(error).__name__}") from error
        finally:
            changed += spoiler.changed
            named = {silo for silo, why in coordinator.losses.items() if why.startswith("faulty")}
            assert named <= {victim}, "an honest silo was named"
        opened += 1
        assert total.total.tolist() == federation.sum_of(total.survivors), "a wrong sum"
    assert changed > ROUNDS // 2
    assert opened > ROUNDS // 3


def upwards(spoiler: Spoiler) -> Tamper:
    return lambda reply: wire.decode_from_silo(*spoiler(wire.encode(reply), wire.decode_from_silo))


def anything(*_args: object) -> None:
    """A check that refuses nothing."""


def test_decode_fuzz_in_sessions_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.masking.coordinator.MaskingCoordinator._check_openings", anything)
    with pytest.raises(AssertionError, match=r"leaked|an honest silo was named"):
        test_decode_fuzz_in_sessions()
