"""Attack ``he_mismatch``: let ciphertexts be taken for what they are not, so that a sum opens to garbage.

SEAL loads most ciphertexts with a flipped bit, and decrypts what another key encrypted, without a word. Here
uploads are cut, flipped, moved to another silo, round, key or parameters, signed by others, or signed by
their own silo and still no ciphertexts; sums are cut, flipped, mixed up, of another key or round. Each must
end in a refusal by name; whatever is let through is held against what was encrypted.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from secagg.ckks import public
from secagg.ckks.parameters import RINGS, plan
from secagg.ckks.public import SignedUpload, checked_upload
from secagg.ckks.secret import SecretKey, encrypt, open_sum, sign_upload
from secagg.errors import MalformedMessage, RoundAborted
from secagg.payload import Payload
from tests.ckks_reference import ROUND, World, payload_of
from tests.counts import count

DEGREE = min(RINGS)
SIZE = 64 + 8 * DEGREE
EARLIER = hashlib.sha256(b"earlier round").digest()
UPLOADS = count(400, full=10_000)
SUMS = count(200, full=10_000)


@dataclass(frozen=True)
class Recorded:
    """What honest silos sent, here and elsewhere: the attacker's material."""

    world: World
    other_key: SecretKey
    vectors: list[np.ndarray[Any, np.dtype[np.float64]]]
    uploads: list[bytes]
    stranger: bytes
    early: bytes
    total: bytes
    other_totals: list[bytes]
    other_ring: bytes
    secrets: list[bytes]


@lru_cache
def recorded() -> Recorded:
    world = World(plan(RINGS[DEGREE].entries + 9, bound=1.0, cohort=3, degree=DEGREE))
    parameters, other_key = world.parameters, SecretKey.generate(DEGREE)
    rng = np.random.default_rng(1)
    vectors = [rng.uniform(-1, 1, parameters.length) for _ in range(3)]
    uploads = [world.encrypted(vector) for vector in vectors]
    elsewhere = World(replace(parameters, length=parameters.length, bound=0.5))
    large = World(replace(parameters, degree=8192))
    stranger = b"".join(encrypt(other_key, parameters, vectors[0], round_id=ROUND))
    early = b"".join(encrypt(world.key, parameters, vectors[0], round_id=EARLIER))
    others = [
        world.summed([stranger] * 3),
        world.summed([early] * 3),
        elsewhere.summed([elsewhere.encrypted(vectors[0] / 2)] * 3),
        world.summed([stranger, *uploads[1:]]),
        world.summed([early, *uploads[1:]]),
        world.summed(uploads[:2]),
    ]
    return Recorded(
        world,
        other_key,
        vectors,
        uploads,
        stranger,
        early,
        data(world.summed(uploads)),
        [data(total) for total in others],
        large.encrypted(vectors[0]),
        [world.key.material().content, other_key.material().content],
    )


def data(payload: Payload) -> bytes:
    return payload.buffer()[:].tobytes()


def flipped(content: bytes, drawn: random.Random, bits: int = 1) -> bytes:
    changed = bytearray(content)
    for _ in range(bits):
        bit = drawn.randrange(8 * len(content))
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(content: bytes, drawn: random.Random) -> bytes:
    return content[: 8 * drawn.randrange(len(content) // 8)]


def wrong_uploads(drawn: random.Random) -> Iterator[tuple[str, SignedUpload]]:
    """Yield uploads of no silo for this round, for ever, with what was done to each."""
    known = recorded()
    world, good = known.world, known.world.signed(0, known.uploads[0])
    parameters, identity = world.parameters, world.identities[0]

    def signed(content: bytes, **changes: Any) -> SignedUpload:
        fields: dict[str, Any] = {"silo": "silo-0", "key_id": world.key.key_id, "round_id": ROUND}
        own = changes.pop("parameters", parameters)
        return sign_upload(identity, own, payload_of(content), **fields | changes)

    def with_word(value: int) -> bytes:
        words = np.frombuffer(known.uploads[0], "<u8").copy()
        # Behind the seed of either chunk.
        words[drawn.choice([8, SIZE // 8 + 8]) + drawn.randrange(DEGREE)] = value
        return words.tobytes()

    above = [RINGS[DEGREE].modulus, RINGS[DEGREE].modulus + 1, 2**60, 2**63, 2**64 - 1]
    kinds: list[Callable[[], tuple[str, SignedUpload]]] = [
        lambda: ("flipped", replace(good, payload=payload_of(flipped(known.uploads[0], drawn)))),
        lambda: ("garbled", replace(good, payload=payload_of(flipped(known.uploads[0], drawn, 500)))),
        lambda: ("cut", replace(good, payload=payload_of(cut(known.uploads[0], drawn)))),
        lambda: ("cut, signed", signed(cut(known.uploads[0], drawn))),
        lambda: ("longer", signed(known.uploads[0] + bytes(8 * drawn.randrange(1, 99)))),
        lambda: ("words announced", replace(good, payload=announced(known.uploads[0], drawn))),
        lambda: ("another type", replace(good, payload=typed(known.uploads[0]))),
        lambda: ("chunks in turn", replace(good, payload=payload_of(turned(known.uploads[0])))),
        lambda: ("another's", replace(good, payload=payload_of(known.uploads[drawn.choice([1, 2])]))),
        lambda: ("signature", replace(good, signature=flipped(good.signature, drawn))),
        lambda: ("no signature", replace(good, signature=drawn.randbytes(drawn.randrange(99)))),
        lambda: ("another silo", replace(world.signed(1, known.uploads[1]), silo="silo-0")),
        lambda: ("as another silo", replace(signed(known.uploads[0], silo="silo-1"), silo="silo-0")),
        lambda: ("another key", signed(known.stranger, key_id=known.other_key.key_id)),
        lambda: ("another round", signed(known.early, round_id=EARLIER)),
        lambda: ("other parameters", signed(known.uploads[0], parameters=replace(parameters, bound=0.5))),
        lambda: ("another scale", signed(known.uploads[0], parameters=replace(parameters, scale_bits=40))),
        lambda: ("another ring", signed(known.other_ring, parameters=replace(parameters, degree=8192))),
        lambda: ("no coefficient", signed(with_word(drawn.choice(above)))),
        lambda: ("a key", signed(known.secrets[drawn.randrange(2)])),
        lambda: ("nothing", signed(b"")),
    ]
    while True:
        for kind in kinds:
            yield kind()


def announced(content: bytes, drawn: random.Random) -> Payload:
    """A payload of the right announced length whose bytes are fewer or more."""
    wrong = content[:-8] if drawn.random() < 0.5 else content + bytes(8)
    return Payload.over("u8", len(content) // 8, memoryview(wrong))


def typed(content: bytes) -> Payload:
    return Payload.over("f8", len(content) // 8, memoryview(content))


def turned(content: bytes) -> bytes:
    return content[SIZE:] + content[:SIZE]


def wrong_sums(drawn: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield what is no sum of this round, for ever, with what was done to each."""
    known = recorded()
    half = len(known.total) // 2
    kinds: list[Callable[[], tuple[str, bytes]]] = [
        lambda: ("flipped", flipped(known.total, drawn)),
        lambda: ("garbled", flipped(known.total, drawn, 500)),
        lambda: ("cut", cut(known.total, drawn)),
        lambda: ("longer", known.total + bytes(8 * drawn.randrange(1, 99))),
        lambda: ("in turn", known.total[half:] + known.total[:half]),
        lambda: ("one chunk twice", known.total[:half] * 2),
        lambda: ("of another key or round or others", drawn.choice(known.other_totals)),
        lambda: ("mixed", known.total[:half] + drawn.choice(known.other_totals)[half:]),
        lambda: ("no ciphertext", drawn.randbytes(len(known.total))),
        lambda: ("a key", known.secrets[0]),
    ]
    while True:
        for kind in kinds:
            yield kind()


def accepted_uploads(times: int) -> list[str]:
    """Attack: return which wrong uploads were taken."""
    world, taken = recorded().world, []
    for _, (kind, upload) in zip(range(times), wrong_uploads(random.Random(2)), strict=False):  # noqa: S311
        try:
            checked_upload(
                upload,
                world.parameters,
                identity=world.identities[0].public,
                key_id=world.key.key_id,
                round_id=ROUND,
            )
        except MalformedMessage:
            continue
        taken.append(kind)
    return taken


def opened_to_garbage(times: int) -> list[str]:
    """Attack: return which wrong sums opened to something else than the sum."""
    known, garbage = recorded(), []
    exact = np.sum(known.vectors, axis=0)
    for _, (kind, content) in zip(range(times), wrong_sums(random.Random(3)), strict=False):  # noqa: S311
        try:
            found = open_sum(
                known.world.key, known.world.parameters, payload_of(content), silos=3, round_id=ROUND
            )
        except (MalformedMessage, RoundAborted):
            continue
        if np.abs(found.values - exact).max() > 2 * found.worst_error:
            garbage.append(kind)
    return garbage


def test_he_mismatch() -> None:
    known = recorded()
    # The same calls take what is right.
    world = known.world
    assert world.checked(world.signed(0, known.uploads[0]), 0).silo == "silo-0"
    found = open_sum(world.key, world.parameters, payload_of(known.total), silos=3, round_id=ROUND)
    assert np.abs(found.values - np.sum(known.vectors, axis=0)).max() <= 2 * found.worst_error
    assert accepted_uploads(UPLOADS) == [], "a wrong upload was taken"
    assert opened_to_garbage(SUMS) == [], "a sum opened to garbage"


def test_seal_reads_no_byte_of_a_refused_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded()
    monkeypatch.setattr("secagg.ckks.seal.Seal.load", lambda *_: pytest.fail("SEAL read an upload"))
    assert accepted_uploads(UPLOADS) == []


def test_seal_itself_loads_and_decrypts_what_was_flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without signature and check slots, one flipped bit is a silent change of all entries."""
    known, drawn = recorded(), random.Random(4)  # noqa: S311
    world = known.world
    monkeypatch.setattr("secagg.ckks.public.verify", lambda *_: True)
    monkeypatch.setattr("secagg.ckks.secret.check_slots", lambda *_, **__: None)
    monkeypatch.setattr("secagg.ckks.secret.check_padding", lambda *_, **__: None)
    low = bytearray(known.uploads[0])
    low[64 + 8 * drawn.randrange(DEGREE)] ^= 1  # The lowest bit of a word: still a coefficient.
    total = world.summed([bytes(low), *known.uploads[1:]])
    found = open_sum(world.key, world.parameters, total, silos=3, round_id=ROUND)
    entries = RINGS[DEGREE].entries
    off = np.abs(found.values - np.sum(known.vectors, axis=0))
    assert (off[:entries] > 1e-6).mean() > 0.99
    assert (off[entries:] <= found.worst_error).all()


without = public.upload_fields


def signed_without(*fields: str) -> Callable[..., Any]:
    """``upload_fields`` that leaves something out."""

    def made(parameters: Any, **named: Any) -> Any:
        if "parameters" in fields:
            parameters = recorded().world.parameters
        return without(parameters, **named | {f: b"" for f in fields if f in named})

    return made


@pytest.mark.parametrize(
    ("defences", "mutant", "found"),
    [
        (("secagg.ckks.public.verify",), lambda *_: True, "upload was taken"),
        (("secagg.ckks.public._below",), lambda *_: True, "upload was taken"),
        *(
            (
                ("secagg.ckks.public.upload_fields", "secagg.ckks.secret.upload_fields"),
                signed_without(field),
                "upload was taken",
            )
            for field in ("key_id", "round_id", "silo", "content", "parameters")
        ),
        (("secagg.ckks.secret.check_slots",), lambda *_, **__: None, "opened to garbage"),
    ],
)
def test_he_mismatch_mutant(
    monkeypatch: pytest.MonkeyPatch, defences: tuple[str, ...], mutant: Any, found: str
) -> None:
    recorded()
    for defence in defences:
        monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_he_mismatch()
