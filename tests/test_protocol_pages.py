"""What docs/protocol.md and docs/wire.md say in tables, measured on the product: sizes, labels, fields."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from secagg import wire
from secagg.ckks.limbs import plan_limbs
from secagg.ckks.secret import SecretKey as CKKSKey
from secagg.ckks.secret import check_values
from secagg.cohort import Cohort
from secagg.errors import MalformedMessage
from secagg.fixedpoint import plan_sum
from secagg.hazmat import agreement, framing, identity
from secagg.hazmat.identity import IdentityKey
from secagg.learning import model
from secagg.masking.coordinator import MaskingCoordinator
from secagg.masking.silo import MaskingSilo
from secagg.messages import (
    DealerEvidence,
    FromCoordinator,
    FromSilo,
    KeyBundle,
    MaskedInput,
    Message,
    Opening,
    RoundOpened,
    ShareEntry,
    ShareSet,
    SignedKey,
    SignedUpload,
    Void,
)
from secagg.names import SiloId, WordBits
from secagg.paillier import knowledge, permutation, threshold
from secagg.paillier import public as public_key
from secagg.privacy.charge import events_of
from secagg.privacy.events import Release
from secagg.privacy.heads import LedgerHead, sign_head
from secagg.privacy.noise import reach
from secagg.roster import Roster
from secagg.rounds.bases import WANTED, base_fields
from secagg.rounds.silo import base_key
from secagg.survivors import Locks, lock_key, sign_void
from secagg.terms import MaskingParameters, PrivacyParameters, SchemeParameters, Terms, training_digest
from tests.paillier_keys import threshold_key
from tests.second_encrypted_silo import KeyShare, SecondEncryptedSilo, WholeKey
from tests.second_silo import Ledger, SecondSilo, head, locked, told
from tests.vectors import encrypted_world, noised_world, world
from tests.vectors.cases import full_inputs
from tests.vectors.forging import bad_dealing
from tests.vectors.notation import FOLDER, load, read, read_frame, write, written_frame
from tests.vectors.privacy_cases import NOISES, noised

DOCS = Path(__file__).parents[1] / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")
WIRE = (DOCS / "wire.md").read_text(encoding="utf-8")


def table(page: str, *head: str) -> list[list[str]]:
    """Return the cells of the table whose head begins with these columns."""
    lines = iter(page.splitlines())
    start = "| " + " | ".join(head)
    if not any(line.startswith(start) for line in lines):
        raise AssertionError(f"no table with the head {head}")
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


# --- sizes -----------------------------------------------------------------------------------------------


def attempt(
    names: list[SiloId], *, length: int, word_bits: WordBits, lost: int, entries: int | None
) -> Iterator[Message]:
    """Run one attempt in which the last ``lost`` silos fall silent before MaskedInput; yield what is sent.

    With a number of entries, each silo says the head of a ledger.
    """
    identities = {name: IdentityKey.generate() for name in names}
    roster = Roster.of({name: key.public for name, key in identities.items()})
    terms = Terms(
        federation="federation",
        job="job",
        round=1,
        kind="sum",
        release=1,
        roster=roster.digest,
        base=bytes(32),
        scheme=MaskingParameters(Cohort.of(len(names))),
        encoding=plan_sum(length, clip=1.0, cohort=len(names), word_bits=word_bits),
    )
    vector = np.ones(length, terms.encoding.dtype)
    silos = {
        name: MaskingSilo(
            name, identity=key, roster=roster, terms=terms, vector=vector, locks=Locks(), data_set="default"
        )
        for name, key in identities.items()
    }
    coordinator = MaskingCoordinator(roster, terms=terms, attempt=1, seconds=60.0)
    silent = frozenset(names[len(names) - lost :])
    outbox = coordinator.open(0.0).output
    while outbox:
        for name, message in outbox.items():
            yield message
            reply = silos[name].receive(message).output
            if isinstance(reply, MaskedInput) and name in silent:
                coordinator.lose(name)
            elif reply is not None:
                if isinstance(reply, MaskedInput) and entries is not None:
                    key, round_id = identities[name], reply.round_id
                    said = sign_head(key, name, "default", entries=entries, chain=bytes(32), context=round_id)
                    reply = msgspec.structs.replace(reply, head=said)
                yield reply
                coordinator.receive(name, reply)
        outbox = coordinator.advance(0.0).output


def array_head(entries: int) -> int:
    return 1 if entries <= 15 else 3


def integer_size(value: int) -> int:
    return 1 if value < 128 else 2 if value < 256 else 3 if value < 65536 else 5


FORMULAS = {row[0]: (row[1].strip("`"), row[2].strip("`")) for row in table(PROTOCOL, "Message", "Header")}


def by_formula(formula: str, **letters: int) -> int:
    known = {"A": array_head, "I": integer_size, **letters}
    return int(eval(formula, {"__builtins__": {}}, known))  # noqa: S307 - our own page


@pytest.mark.parametrize(
    ("n", "characters", "length", "word_bits", "lost", "entries"),
    [
        (3, 1, 1, 32, 0, None),
        (4, 5, 200, 32, 1, 0),
        (7, 31, 127, 64, 2, None),
        (17, 2, 300, 32, 4, 200),
        (6, 40, 70000, 64, 0, 70000),
    ],
)
def test_sizes_are_those_of_the_page(
    n: int, characters: int, length: int, word_bits: WordBits, lost: int, entries: int | None
) -> None:
    names = [f"{slot:x}".zfill(characters) if characters > 1 else "abc"[slot] for slot in range(n)]
    a = len(msgspec.msgpack.encode(names[0]))
    assert a == (1 if characters <= 31 else 2) + characters
    survivors = n - lost
    letters = {"u": n, "m": n, "s": survivors, "g": survivors, "a": a, "L": length + 1}
    letters |= {"E": 1, "h": 0} if entries is None else {"E": 168 + integer_size(entries), "h": survivors}
    letters |= {"attempt": 1, "v": 0, "e": 0, "t": Cohort.of(n).t, "word_bits": word_bits}
    seen = set()
    for message in attempt(names, length=length, word_bits=word_bits, lost=lost, entries=entries):
        name = type(message).__name__
        header, payload = wire.encode(message)
        of_header, of_payload = FORMULAS[name]
        assert len(header) == by_formula(of_header, **letters), name
        assert (0 if payload is None else len(payload)) == by_formula(of_payload or "0", **letters), name
        seen.add(name)
    assert seen == FORMULAS.keys()


def test_size_of_voids_and_evidence() -> None:
    evidence = world.run(lost="a", shares=bad_dealing("a")).evidence
    voids = tuple(sign_void(world.IDENTITIES[silo], silo, bytes(32)) for silo in world.SILOS)
    assert evidence
    assert voids
    header, _ = wire.encode(RoundOpened(world.TRAINING, 200, 60.0, voids, evidence))
    letters = {"u": 4, "a": 2, "attempt": 200, "v": len(voids), "e": len(evidence), "t": world.COHORT.t}
    assert len(header) == by_formula(FORMULAS["RoundOpened"][0], **letters)


# --- labels ----------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run everything that is signed, hashed or derived, and compare labels and numbers of fields."""
    seen: dict[str, int] = {}
    real: Callable[..., bytes] = framing.frame

    def noted(label: str, *fields: Any) -> bytes:
        assert seen.setdefault(label, len(fields)) == len(fields)
        return real(label, *fields)

    for module in (framing, identity, agreement):
        monkeypatch.setattr(module, "frame", noted)
    assert Roster(world.ROSTER.members).digest == world.ROSTER.digest
    assert training_digest(world.TERMS) == world.TRAINING
    assert world.run().failure is None
    sign_void(world.IDENTITIES["a"], "a", bytes(32))
    lock_key("default", msgspec.structs.replace(world.TERMS, release=2))
    sign_head(world.IDENTITIES["a"], "a", "default", entries=1, chain=bytes(32), context=bytes(32))
    told = {row[0].strip("`"): len(row[2].split(";")) for row in table(PROTOCOL, "Label", "Use")}
    assert seen == told


def test_labels_of_ciphertexts_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run whole rounds over ciphertexts, and what is only hashed or derived beside them."""
    seen: dict[str, int] = {}
    real: Callable[..., bytes] = framing.frame

    def noted(label: str, *fields: Any) -> bytes:
        assert seen.setdefault(label, len(fields)) == len(fields)
        return real(label, *fields)

    for module in (framing, identity, agreement, model, public_key, knowledge, permutation, threshold):
        monkeypatch.setattr(module, "frame", noted)
    encrypted_world.run.cache_clear()
    for scheme in (encrypted_world.PAILLIER, encrypted_world.THRESHOLD):
        encrypted_world.run(scheme)
    modulus = encrypted_world.PAILLIER.adder.public.n
    assert threshold.ThresholdKey.from_bytes(threshold_key(4, 3)[0].to_bytes()).id
    public = public_key.PublicKey(modulus)
    assert public.base
    with pytest.raises(MalformedMessage, match="does not hold"):
        permutation.check_permutation(public, bytes(permutation.ROOTS * public.bits // 8), context=bytes(32))
    limbs = plan_limbs(4, word_bits=32, cohort=4, degree=4096)
    check_values(limbs.parameters, round_id=bytes(32), chunk=0)
    CKKSKey.generate(4096)
    assert model.GlobalModel(1, np.ones(1)).digest
    world.IDENTITIES["a"].sign(WANTED, *base_fields(bytes(32), "a", bytes(32)))
    own = agreement.AgreementKey.from_private_bytes(bytes(32))
    base_key(own, own.public, bytes(32), "a")
    told = {
        row[0].strip("`"): len(row[2].split(";")) for row in table(PROTOCOL, "Label of ciphertexts", "Use")
    }
    assert told.items() <= seen.items()
    assert seen.keys() - told.keys() <= {"training", "survivors", "roster"}


CHANGES: dict[tuple[str, ...], object] = {
    ("federation",): "other",
    ("job",): "other",
    ("round",): 2,
    ("kind",): "train",
    ("release",): 2,
    ("roster",): bytes(32),
    ("base",): bytes(32),
    ("scheme", "type"): "plain",
    ("scheme", "cohort", "n"): 6,
    ("scheme", "cohort", "c"): 2,
    ("scheme", "cohort", "t"): 5,
    ("scheme", "cohort", "k_min"): 3,
    ("encoding", "word_bits"): 64,
    ("encoding", "cohort"): 3,
    ("encoding", "weight_cap"): 2.0,
    ("encoding", "segments", "0", "name"): "other",
    ("encoding", "segments", "0", "length"): 4,
    ("encoding", "segments", "0", "bound"): 4.0,
    ("encoding", "segments", "0", "fraction_bits"): 8,
    ("training", "0", "0"): "other",
    ("training", "0", "1"): 0.25,
    ("training", "1", "0"): "other",
    ("training", "1", "1"): "adam",
    ("privacy",): msgspec.to_builtins(noised_world.NOISE),
}
"""A new value for every leaf of ``TERMS``."""

# With these a single one of n, c, t and k_min can change and still be accepted.
TERMS = msgspec.structs.replace(world.TERMS, scheme=MaskingParameters(Cohort(5, 1, 4)))


def leaves(tree: Any, *path: str) -> Iterator[tuple[str, ...]]:
    match tree:
        case dict():
            for key, value in tree.items():
                yield from leaves(value, *path, key)
        case list() | tuple():
            for place, value in enumerate(tree):
                yield from leaves(value, *path, str(place))
        case _:
            yield path


def tree_of(terms: Terms) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(terms))


def test_every_field_of_the_terms_has_a_change() -> None:
    assert set(leaves(tree_of(TERMS))) == CHANGES.keys()


@pytest.mark.parametrize("path", CHANGES, ids="/".join)
def test_every_field_of_the_terms_is_in_the_training_digest(path: tuple[str, ...]) -> None:
    tree = tree_of(TERMS)
    part = tree
    for step in path[:-1]:
        part = part[int(step) if isinstance(part, list) else step]
    last: Any = int(path[-1]) if isinstance(part, list) else path[-1]
    assert part[last] != CHANGES[path]
    part[last] = CHANGES[path]
    if path == ("scheme", "type"):
        del part["cohort"]  # Plain has none.
    assert training_digest(msgspec.convert(tree, Terms)) != training_digest(TERMS)


@pytest.mark.parametrize("name", NOISES)
def test_every_field_of_noise_is_in_the_training_digest(name: str) -> None:
    terms = noised(NOISES[name])
    tree = tree_of(terms)
    for field, value in tree["privacy"].items():
        if field != "type":
            other = value / 2 if field == "delta" or "rate" in field else value + 1
            changed = tree | {"privacy": tree["privacy"] | {field: other}}
            assert training_digest(msgspec.convert(changed, Terms)) != training_digest(terms), field


# --- differential privacy --------------------------------------------------------------------------------

COSTS = {
    row[0]: [cell.strip("`") for cell in row[1:]] for row in table(PROTOCOL, "Noise", "Unit", "Multiplier")
}


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("cohort", [Cohort(4, 1, 3), Cohort(7, 2, 6), Cohort(9, 3, 7, 6)])
def test_costs_are_those_of_the_page(name: str, cohort: Cohort) -> None:
    """Multipliers of shares are rounded down to four digits."""
    noise = NOISES[name]
    terms = noised(noise, scheme=MaskingParameters(cohort))
    known: dict[str, Any] = {"sqrt": math.sqrt, "h": max(cohort.t, cohort.k_min + cohort.c) - cohort.c}
    known |= {"C": noise.l2_clip_norm, "d": terms.encoding.length, "n": cohort.n}
    known |= {"f": terms.encoding.segments[0].fraction_bits} | msgspec.structs.asdict(noise)
    known["rate"] = known.get("sampling_rate")
    unit, *formulas = COSTS[name]
    multiplier, rate, count, slack = (
        eval(formula, {"__builtins__": {}}, known)  # noqa: S307 - our own page
        for formula in formulas
    )
    (event,) = events_of(terms)
    assert isinstance(event, Release)
    assert (event.unit, event.sampling_rate, event.count) == (unit, rate, count)
    expected = multiplier if name == "LocalNoise" else four_digits(multiplier)
    assert event.noise_multiplier == pytest.approx(expected, rel=1e-12)
    assert event.slack == pytest.approx(slack, rel=1e-12)


def four_digits(value: float) -> float:
    last = Fraction(10) ** (math.floor(math.log10(value)) - 3)
    return float(Fraction(value) // last * last)


def test_every_kind_of_noise_has_its_cost_on_the_page() -> None:
    assert COSTS.keys() == {kind.__name__ for kind in get_args(PrivacyParameters)} == NOISES.keys()


def farthest(sigma: float) -> int:
    """Section 11, step 3."""
    v, k, r = Fraction(sigma) ** 2, 1, 0
    while v > 682**2:
        r, v, k = r + 6144 * k, (v - 512**2) / 160**2, 160 * k
    root = math.isqrt(144 * v.numerator // v.denominator)
    return r + k * (root if root * root == 144 * v else root + 1)


@given(st.floats(0.5, 2.0**40))
@example(682.0)
@example(math.nextafter(682.0, 683.0))
@example(4.0)
def test_the_reach_of_noise_is_that_of_the_page(sigma: float) -> None:
    assert reach(sigma) == farthest(sigma)


# --- messages --------------------------------------------------------------------------------------------


def fields_told(cell: str) -> list[str]:
    """Return the names of fields in a cell: the first word of each part, parentheses aside."""
    without = re.sub(r"\([^)]*\)", "()", cell.split(":", maxsplit=1)[0].split(";", maxsplit=1)[0])
    return [part.split()[0] for part in without.split(", ")]


@pytest.mark.parametrize(
    ("head", "union"), [("From a silo", FromSilo), ("From the coordinator", FromCoordinator)]
)
def test_messages_are_those_of_the_page(head: str, union: Any) -> None:
    told = {row[0]: fields_told(row[1]) for row in table(WIRE, head, "Fields")}
    assert told == {kind.__name__: list(kind.__struct_fields__) for kind in get_args(union)}


def test_parts_are_those_of_the_page() -> None:
    told = {row[0]: fields_told(row[1]) for row in table(WIRE, "Part", "Fields")}
    structs = (
        Terms,
        KeyBundle,
        ShareEntry,
        ShareSet,
        Opening,
        Void,
        SignedKey,
        SignedUpload,
        DealerEvidence,
        LedgerHead,
    )
    for kind in structs:
        assert told.pop(kind.__name__) == list(kind.__struct_fields__)
    for tagged in (*get_args(SchemeParameters), *get_args(PrivacyParameters)):
        assert told.pop(tagged.__name__) == ["type", *tagged.__struct_fields__]
    encoding = world.TERMS.encoding
    for part in (world.COHORT, encoding, encoding.segments[0]):
        assert told.pop(type(part).__name__) == list(part.__dataclass_fields__)
    assert not told


# --- a second implementation -----------------------------------------------------------------------------


def ledger_of(setup: Any) -> Ledger | None:
    ledger = setup.get("ledger")
    return None if ledger is None else (setup["data_set"], ledger["entries"], ledger["chain"])


@pytest.mark.parametrize("name", ["silo", "noised_silo"])
def test_a_silo_written_from_the_pages_gives_the_same_bytes(name: str) -> None:
    """With noise in the terms it also says the head of its ledger."""
    vectors = load(FOLDER / f"{name}.json")
    setup = read(vectors["setup"])
    silo = SecondSilo(
        setup["silo"],
        identity=setup["identity"],
        roster=setup["roster"],
        opened=setup["opened"]["header"],
        vector=setup["vector"],
        random=setup["random"],
        ledger=ledger_of(setup),
    )
    for step in vectors["script"]:
        header, _ = read_frame(step["receive"])
        reply = silo.receive(header)
        assert (None if reply is None else written_frame(*reply)) == step["reply"]
    assert silo.random == b""


@pytest.mark.parametrize("name", ["paillier_silo", "threshold_silo"])
def test_a_silo_of_ciphertexts_written_from_the_pages_gives_the_same_bytes(name: str) -> None:
    """And opens the same sum: with ``phe`` where it holds the whole key."""
    vectors = load(FOLDER / f"{name}.json")
    setup = read(vectors["setup"])
    key = setup["key"]
    silo = SecondEncryptedSilo(
        setup["silo"],
        identity=setup["identity"],
        roster=setup["roster"],
        opened=setup["opened"]["header"],
        key=KeyShare(key, setup["share"]) if "share" in setup else WholeKey(key),
        vector=setup["vector"],
        random=setup["random"],
    )
    for step in vectors["script"]:
        header, payload = read_frame(step["receive"])
        reply = silo.receive(header, None if payload is None else bytes(payload))
        assert (None if reply is None else written_frame(*reply)) == step["reply"]
    assert silo.total == np.frombuffer(read(vectors["outcome"])["total"], "<i4").tolist()
    # What this library blinds a ciphertext with before it opens it alone; phe does not.
    assert len(silo.random) % 256 == 0
    assert ("share" in setup) == (silo.random == b"")


def test_digests_and_locks_written_from_the_pages_are_those_of_the_vectors() -> None:
    seen = 0
    for file in ("terms", "privacy"):
        cases = load(FOLDER / f"{file}.json")["cases"]
        inputs = full_inputs(cases)
        for case in cases:
            asked = {"training": told, "locked_base": locked}.get(case["operation"])
            if asked is not None:
                header, _ = read_frame(inputs[case["name"]]["opened"])
                assert write(asked(msgspec.msgpack.decode(header[1:])["terms"])) == case["output"], case[
                    "name"
                ]
                seen += 1
    assert seen == 7 + 4


def test_a_head_written_from_the_pages_is_that_of_the_vectors() -> None:
    cases = load(FOLDER / "privacy.json")["cases"]
    (case,) = (case for case in cases if case["operation"] == "sign_ledger_head")
    given = read(case["input"])
    identity = Ed25519PrivateKey.from_private_bytes(given["identity"])
    ledger = given["data_set"], given["entries"], given["chain"]
    assert write(head(identity, given["silo"], ledger, given["round_id"])) == case["output"]
