"""Cases for the codec: one frame of each type, and bytes that are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from secagg import wire
from secagg.messages import (
    AggregateAnnounced,
    BaseAsked,
    BaseForwarded,
    BaseRequested,
    BaseSealed,
    BaseSent,
    BaseWanted,
    BoxReport,
    EncryptedInput,
    FromCoordinator,
    KeyAsked,
    KeyDealt,
    KeyDelivered,
    KeyForwarded,
    KeyPassed,
    KeyRequested,
    KeyTaken,
    KeyWanted,
    MaskedInput,
    Message,
    Opened,
    OpeningRequested,
    PartialDecryption,
    PartialsAnnounced,
    PlainInput,
    PlainSum,
    Ready,
    Refused,
    RoundOpened,
    SealingKey,
    SealingKeysAnnounced,
    SignedKey,
    SignedUpload,
    SurvivorsAnnounced,
    TrainingOpened,
    UploadsAnnounced,
    Voided,
    VoidRequested,
)
from secagg.payload import Payload
from secagg.survivors import sign_void
from tests.vectors import world
from tests.vectors.cases import Group
from tests.vectors.forging import ROUND, SESSION
from tests.vectors.noised_world import head
from tests.vectors.notation import fixed, flipped, write_frame, written_frame
from tests.vectors.privacy_cases import NOISES, noised
from tests.vectors.world import IDENTITIES, TERMS, TRAINING

HEAD = head("a", 3, ROUND)
SILO, COORDINATOR = "decode_from_silo", "decode_from_coordinator"
Tree = dict[str, Any]


def frames() -> Group:
    group = Group(
        "The codec: a frame of each type that silo.json and coordinator.json lack, and bytes that are none."
    )
    vector = Payload.of(np.array([1, 2, 3, 4], np.uint32))
    reals = Payload.of(np.array([0.5, -1.0]))
    void = sign_void(IDENTITIES["a"], "a", ROUND)
    key, asked, document = fixed("key id"), fixed("ceremony"), b"document"
    sealing = SignedKey(fixed("sealing key"), fixed("nonce"), fixed("signature") * 2)
    sealed, box = fixed("sealed"), fixed("box") * 2
    data, words = Payload.of(np.arange(5, dtype=np.uint8)), Payload.of(np.arange(3, dtype=np.uint64))
    sealed_key = (fixed("sealed key") * 2)[:48]
    shared = SignedUpload(data.digest, fixed("box key"), sealing.signature)
    whole = SignedUpload(words.digest, None, sealing.signature)
    for message in (
        BaseRequested(TERMS.base),
        Ready(TRAINING),
        Refused("lock", ("a", "b")),
        BoxReport(SESSION, "a"),
        Voided((void,)),
        PlainInput(TRAINING, vector),
        SealingKey(asked, sealing),
        KeyDealt(asked, document, b"", (("a", box), ("b", box))),
        KeyTaken(asked, key, sealing.signature),
        KeyWanted(key, sealing),
        KeyForwarded(asked, document, sealing, sealed, box),
        BaseWanted(TERMS.base, fixed("box key"), sealing.signature),
        BaseSealed(TERMS.base, "a", fixed("wanted key"), fixed("box key"), data),
        MaskedInput(ROUND, vector, HEAD),
        EncryptedInput(ROUND, shared, data, HEAD),
        EncryptedInput(ROUND, shared, data),
        EncryptedInput(ROUND, whole, words),
        PartialDecryption(ROUND, (("a", sealed_key), ("b", sealed_key)), data),
        Opened(TRAINING, fixed("next base"), ("a", "b"), ("b",)),
    ):
        group.passes(_name(message), SILO, **write_frame(message))
    told: tuple[FromCoordinator, ...] = (
        TrainingOpened(TERMS, 60.0),
        *(TrainingOpened(noised(noise), 60.0) for noise in NOISES.values()),
        BaseSent(TERMS.base, reals),
        RoundOpened(TRAINING, 2, 60.0, (void,)),
        VoidRequested((ROUND,)),
        PlainSum(TRAINING, ("a", "b"), vector),
        KeyRequested(
            *("vectors", TERMS.roster, "threshold-paillier", 3072, 3, "a"), fixed("nonce"), 7776000, key
        ),
        SealingKeysAnnounced(asked, (("a", sealing), ("b", sealing))),
        KeyDelivered(asked, document, sealing, sealed, box),
        KeyAsked("a", key, sealing),
        KeyPassed("b", asked, document, sealing, sealed, box),
        BaseAsked(TERMS.base, "a", fixed("box key"), sealing.signature),
        BaseForwarded(TERMS.base, "b", fixed("box key"), data),
        UploadsAnnounced(ROUND, (("a", shared), ("b", whole))),
        AggregateAnnounced(ROUND, (("a", sealing.signature),), words),
        OpeningRequested(ROUND, (("a", sealing.signature),), data),
        SurvivorsAnnounced(ROUND, ("a", "b"), (("a", HEAD),)),
        UploadsAnnounced(ROUND, (("a", shared), ("b", whole)), (("a", HEAD),)),
        PartialsAnnounced(ROUND, (("b", sealed_key),), data),
    )
    for sent in told:
        group.passes(_name(sent), COORDINATOR, **write_frame(sent))
    _bad_bytes(group)
    _bad_fields(group)
    _bad_payloads(group)
    return group


def _name(message: Message) -> str:
    """Return the type, and what else of the same type there is no frame of."""
    match message:
        case MaskedInput() | EncryptedInput() if message.head is not None:
            more = " with a head"
        case EncryptedInput() if message.upload.box is None:
            more = ", one key opens"
        case TrainingOpened() if message.terms.privacy is not None:
            more = f", {type(message.terms.privacy).__name__}"
        case SurvivorsAnnounced() | UploadsAnnounced() if message.heads:
            more = " with a head"
        case _:
            more = ""
    return type(message).__name__ + more


def _bad_bytes(group: Group) -> None:
    ready, _ = wire.encode(Ready(TRAINING))

    def fails(name: str, header: bytes) -> None:
        group.fails(name, SILO, "MalformedMessage", **written_frame(header))

    fails("nothing", b"")
    fails("the version alone", wire.VERSION)
    fails("no version", ready[1:])
    fails("version 2", b"\x02" + ready[1:])
    fails("a header that is cut", ready[:-1])
    fails("a byte behind the header", ready + b"\x00")
    fails("two messages", ready + ready[1:])
    fails("a map that is too short", ready.replace(b"\x82", b"\x81", 1))
    fails("a map that is too long", ready.replace(b"\x82", b"\x83", 1))
    fails("a second form of the same map", wire.VERSION + b"\xde\x00\x02" + ready[2:])
    fails("a second form of a length", ready.replace(b"\xc4\x20", b"\xc5\x00\x20"))
    fails("a key twice", wire.VERSION + b"\x83" + ready[2:] + ready[ready.index(b"\xa8training") :])
    fails("the fields in another order", _reordered(Ready(TRAINING)))
    fails("an array in place of the map", wire.VERSION + msgspec.msgpack.encode(["Ready", TRAINING]))
    fails("an extension type", wire.VERSION + b"\xd4\x01\x00")
    fails("a thousand nested arrays", wire.VERSION + b"\x91" * 1000)
    fails("a message of the coordinator", wire.encode(SurvivorsAnnounced(ROUND, ("a",)))[0])
    header, _ = wire.encode(Ready(TRAINING))
    group.fails("a message of a silo", COORDINATOR, "MalformedMessage", **written_frame(header))


def _reordered(message: Message) -> bytes:
    tree = msgspec.to_builtins(message, builtin_types=(bytes,))
    return wire.VERSION + msgspec.msgpack.encode(dict(reversed(tree.items())))


def _bad_fields(group: Group) -> None:
    def fails(name: str, operation: str, message: Message, change: Callable[[Tree], object]) -> None:
        header, payload = wire.encode(message)
        tree: Tree = msgspec.msgpack.decode(header[1:])
        change(tree)
        header = wire.VERSION + msgspec.msgpack.encode(tree)
        data = None if payload is None else bytes(payload[:])
        group.fails(name, operation, "MalformedMessage", **written_frame(header, data))

    def silo(name: str, message: Message, **changes: object) -> None:
        fails(name, SILO, message, lambda tree: tree.update(changes))

    def coordinator(name: str, message: Message, **changes: object) -> None:
        fails(name, COORDINATOR, message, lambda tree: tree.update(changes))

    ready, report, opened = Ready(TRAINING), BoxReport(SESSION, "a"), RoundOpened(TRAINING, 1, 60.0)
    silo("an unknown type", ready, type="Reddy")
    silo("a type without its fields", ready, type="AdvertiseKeys")
    silo("a field that is not there", ready, more=1)
    fails("a field less", SILO, ready, lambda tree: tree.pop("training"))
    fails("no type", SILO, ready, lambda tree: tree.pop("type"))
    silo("a digest of 31 bytes", ready, training=TRAINING[:-1])
    silo("a digest of 33 bytes", ready, training=TRAINING + b"\0")
    silo("text in place of bytes", ready, training="x" * 32)
    silo("a name of 65 characters", report, dealer="a" * 65)
    silo("a name with a slash", report, dealer="../a")
    silo("a name with a line break", report, dealer="a\n")
    silo("an empty name", report, dealer="")
    silo("a rule of 65 characters", Refused("lock"), rule="x" * 65)
    coordinator("attempt 0", opened, attempt=0)
    coordinator("attempt 2^53", opened, attempt=2**53)
    coordinator("a negative attempt", opened, attempt=-1)
    coordinator("an attempt that is a float", opened, attempt=1.0)
    coordinator("seconds that are an integer", opened, seconds=60)
    for seconds in (0.0, -1.0, math.nan, math.inf, 2592000.5):
        coordinator(f"{seconds} seconds", opened, seconds=seconds)

    def terms(name: str, *path: str, value: object) -> None:
        def change(tree: Tree) -> None:
            part = tree["terms"]
            for step in path[:-1]:
                part = part[step]
            part[path[-1]] = value

        fails(name, COORDINATOR, world.OPENED, change)

    terms("a threshold below 2t > n + c", "scheme", "cohort", "t", value=2)
    terms("no colluders", "scheme", "cohort", "c", value=0)
    terms("k_min 1", "scheme", "cohort", "k_min", value=1)
    terms("an unknown scheme", "scheme", "type", value="none")
    terms("another kind", "kind", value="test")
    terms("a word of 16 bits", "encoding", "word_bits", value=16)
    terms("an encoding whose sum could wrap", "encoding", "cohort", value=8)
    terms("an encoding without segments", "encoding", "segments", value=[])
    fails(
        "terms that say nothing of noise",
        COORDINATOR,
        world.OPENED,
        lambda tree: tree["terms"].pop("privacy"),
    )
    terms("noise that is false", "privacy", value=False)

    def noise(name: str, of: str, **changes: object) -> None:
        opened = TrainingOpened(noised(NOISES[of]), 60.0)
        fails(name, COORDINATOR, opened, lambda tree: tree["terms"]["privacy"].update(changes))

    noise("an unknown kind of noise", "SiloNoise", type="other")
    noise("a share below 4 steps", "SiloNoise", share=3.75)
    noise("a share that is an integer", "SiloNoise", share=64)
    noise("a clip norm of 0", "SiloNoise", l2_clip_norm=0.0)
    noise("a clip norm that is NaN", "RecordNoise", l2_clip_norm=math.nan)
    noise("a delta of 1", "SiloNoise", delta=1.0)
    noise("a sampling rate above 1", "RecordNoise", sampling_rate=1.5)
    noise("steps that are a float", "LocalNoise", steps=16.0)
    noise("a field of another noise", "SiloNoise", steps=16)

    def headed(name: str, **changes: object) -> None:
        sent = MaskedInput(ROUND, world.vector_of(4), HEAD)
        fails(name, SILO, sent, lambda tree: tree["head"].update(changes))

    headed("a negative number of entries", entries=-1)
    headed("2^53 entries", entries=2**53)
    headed("a chain of 31 bytes", chain=HEAD.chain[:-1])
    headed("a data set by its name", data_set="default")
    lacking = MaskedInput(ROUND, world.vector_of(4))
    fails("no field for a head", SILO, lacking, lambda tree: tree.pop("head"))


def _bad_payloads(group: Group) -> None:
    vector = np.array([1, 2, 3, 4], np.uint32)
    header, payload = wire.encode(PlainInput(TRAINING, Payload.of(vector)))
    data = bytes((payload or b"")[:])

    def fails(name: str, header: bytes, payload: bytes | None = data) -> None:
        group.fails(name, SILO, "MalformedMessage", **written_frame(header, payload))

    def announced(name: str, value: object) -> None:
        fails(
            name,
            wire.VERSION
            + msgspec.msgpack.encode({"type": "PlainInput", "training": TRAINING, "vector": value}),
        )

    digest = Payload.of(vector).digest
    fails("no payload", header, None)
    fails("an empty payload", header, b"")
    fails("a payload that is cut", header, data[:-1])
    fails("a payload with an entry more", header, data + bytes(4))
    fails("a payload with a flipped bit", header, flipped(data))
    fails("a payload beside a message without one", wire.encode(Ready(TRAINING))[0])
    announced("another type", ["u8", 2, fixed("digest")])
    announced("an unknown type of entry", ["f4", 4, digest])
    announced("a length of 0", ["u4", 0, digest])
    announced("a negative length", ["u4", -4, digest])
    announced("a length that is a float", ["u4", 4.0, digest])
    announced("a payload digest of 31 bytes", ["u4", 4, digest[:-1]])
    announced("no digest", ["u4", 4])
    announced("a length alone", 4)
