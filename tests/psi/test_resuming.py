"""A session that is killed at any moment goes on to the same result; a partner that changed is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from secagg.conversation import Side, together
from secagg.errors import FaultySilo
from secagg.hazmat.curve import Exponent
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.psi.draws import Seeded
from secagg.psi.identifiers import read_identifiers
from secagg.psi.many.follower import FollowerSession
from secagg.psi.many.leader import LeaderSession
from secagg.psi.many.sides import following, leading
from secagg.psi.many.terms import ManyTerms
from secagg.psi.outcome import Outcome
from secagg.psi.powers import Powers
from secagg.psi.receiver import ReceiverSession
from secagg.psi.sender import SenderSession
from secagg.psi.sides import receiving, sending
from secagg.psi.terms import IntersectionPolicy, IntersectionTerms, Reveal
from secagg.psi.transcript import repeatable


class Killed(Exception):
    """All processes end here."""


@dataclass
class Kept:
    """What one party keeps over its processes; a transcript and buckets."""

    seed: bytes
    frames: dict[tuple[SiloId, int], bytes] = field(default_factory=dict)
    buckets: dict[bytes, bytes] = field(default_factory=dict)
    computed: int = 0
    loaded: int = 0

    def said(self, partner: SiloId, number: int) -> bytes | None:
        return self.frames.get((partner, number))

    def heard(self, partner: SiloId, number: int, digest: bytes) -> None:
        self.frames[partner, number] = digest

    def keep(self, name: bytes, powers: bytes) -> None:
        self.buckets[name] = powers
        self.computed += 1

    def load(self, name: bytes) -> bytes | None:
        self.loaded += name in self.buckets
        return self.buckets.get(name)


SETS: Mapping[SiloId, Iterable[int]] = {"bank": range(100), "insurer": range(50, 150)}
MANY: Mapping[SiloId, Iterable[int]] = {"a": range(100), "b": range(50, 160), "c": range(60, 90)}


def kept(sets: Mapping[SiloId, Iterable[int]]) -> dict[SiloId, Kept]:
    return {name: Kept(bytes([at]) * 32) for at, name in enumerate(sets)}


def sides(
    sets: Mapping[SiloId, Iterable[int]], state: Mapping[SiloId, Kept], reveal: Reveal = "both"
) -> dict[SiloId, Side[Outcome | None]]:
    """Return new sides, as after a start of every process."""
    policy = IntersectionPolicy()

    def of(name: SiloId) -> dict[str, Any]:
        own = state[name]
        powers = Powers(cores=1, buckets=own)
        return {"policy": policy, "powers": powers, "draws": Seeded(own.seed)}

    read = {name: read_identifiers(each) for name, each in sets.items()}
    found: dict[SiloId, Side[Any]] = {}
    if len(sets) == 2:
        a, b = sets
        two = IntersectionTerms(session=bytes(32), receiver=a, sender=b, reveal=reveal)
        found[a] = receiving(ReceiverSession(two, read[a], **of(a)))
        found[b] = sending(SenderSession(two, read[b], **of(b)))
    else:
        first, *others = sets
        many = ManyTerms(session=bytes(32), leader=first, followers=tuple(others))
        found[first] = leading(LeaderSession(many, read[first], **of(first)))
        for name in others:
            found[name] = following(FollowerSession(many, name, read[name], **of(name)))
    return {name: repeatable(side, state[name]) for name, side in found.items()}


def killed_at(frames: int) -> Any:
    left = iter(range(frames))

    def watch(*_: object) -> None:
        if next(left, None) is None:
            raise Killed

    return watch


def same(one: Mapping[SiloId, Outcome | None], other: Mapping[SiloId, Outcome | None]) -> None:
    assert one.keys() == other.keys()
    for name, outcome in one.items():
        again = other[name]
        if outcome is None or again is None:
            assert outcome is again
            continue
        assert (outcome.count, outcome.digest) == (again.count, again.digest)
        if outcome.rows is None or again.rows is None:
            assert outcome.rows is again.rows
        else:
            np.testing.assert_array_equal(outcome.rows, again.rows)


CASES: list[tuple[Mapping[SiloId, Iterable[int]], Reveal, int]] = [
    (SETS, "both", 5),
    (SETS, "receiver", 5),
    (SETS, "count", 4),
    (MANY, "both", 14),
]


@pytest.mark.parametrize(("sets", "reveal", "frames"), CASES)
def test_killed_at_each_message_it_ends_as_undisturbed(
    sets: Mapping[SiloId, Iterable[int]], reveal: Reveal, frames: int
) -> None:
    undisturbed = together(sides(sets, kept(sets), reveal))
    for at in range(frames):
        state = kept(sets)
        with pytest.raises(Killed):
            together(sides(sets, state, reveal), watch=killed_at(at))
        same(together(sides(sets, state, reveal)), undisturbed)
    together(sides(sets, kept(sets), reveal), watch=killed_at(frames))  # There are so many, and no more.


def test_killed_at_every_message_of_one_session() -> None:
    state = kept(SETS)
    for at in range(5):
        with pytest.raises(Killed):
            together(sides(SETS, state), watch=killed_at(at))
    same(together(sides(SETS, state)), together(sides(SETS, kept(SETS))))


@pytest.mark.parametrize("sets", [SETS, MANY])
def test_what_was_computed_is_not_computed_again(sets: Mapping[SiloId, Iterable[int]]) -> None:
    state = kept(sets)
    together(sides(sets, state))
    computed = {name: each.computed for name, each in state.items()}
    assert min(computed.values()) >= 2
    together(sides(sets, state))
    assert {name: each.computed for name, each in state.items()} == computed
    assert {name: each.loaded for name, each in state.items()} == computed


@pytest.mark.parametrize("sets", [SETS, MANY])
def test_a_partner_that_changes_its_set_is_named(sets: Mapping[SiloId, Iterable[int]]) -> None:
    for changing in sets:
        if changing == "c":
            continue  # What b says is enough.
        state = kept(sets)
        with pytest.raises(Killed):
            together(sides(sets, state), watch=killed_at(4 if len(sets) == 2 else 12))
        changed = dict(sets) | {changing: [*sets[changing], 7_000]}
        # It took away what it had kept, as somebody would who wants to ask about others.
        state[changing] = Kept(state[changing].seed)
        with pytest.raises(FaultySilo, match="something else than before this session was interr") as caught:
            together(sides(changed, state))
        assert caught.value.silo == changing


def test_what_is_heard_is_kept_before_it_is_answered() -> None:
    """Guarantee of ``repeatable``."""
    state = kept(SETS)
    answered: list[str] = []

    def watch(sender: SiloId, _to: SiloId, _frame: Frame) -> None:
        answered.append(sender)
        if sender == "insurer":
            assert ("bank", 0) in state["insurer"].frames

    together(sides(SETS, state), watch=watch)
    assert answered.count("insurer") == 3


# --- buckets ------------------------------------------------------------------------------------------------


def buckets(sets: Mapping[SiloId, Iterable[int]], state: Kept) -> Iterator[bytes]:
    together(sides(sets, kept(sets) | {"bank": state}))
    yield from state.buckets


def test_other_inputs_never_meet_a_bucket() -> None:
    """Guarantee of ``Powers``."""
    state = Kept(bytes([7]) * 32)
    first = set(buckets(SETS, state))
    state.buckets = {}
    assert set(buckets(SETS, state)) == first
    for changed in (Kept(bytes([8]) * 32), Kept(state.seed)):
        sets = SETS if changed.seed != state.seed else dict(SETS) | {"bank": range(1, 101)}
        assert not set(buckets(sets, changed)) & first


SPAN = 64


@pytest.mark.parametrize("size", [4 * SPAN, 4 * SPAN + 1, 6 * SPAN - 1])
def test_a_run_that_was_killed_between_buckets_goes_on_there(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("secagg.psi.powers.SPAN", SPAN)
    monkeypatch.setattr("secagg.psi.powers.BUCKET", 2 * SPAN)
    messages = [str(number).encode() for number in range(size)]
    exponent, state = Exponent.generate(Seeded(bytes(32))("exponent")), Kept(bytes(32))
    whole = Powers(cores=2, buckets=state).of_messages(messages, bytes(32), exponent)
    names = list(state.buckets)
    assert len(names) == -(-size // (2 * SPAN))
    del state.buckets[names[-1]]
    seen: list[int] = []
    again = Powers(cores=2, progress=seen.append, buckets=state).of_messages(messages, bytes(32), exponent)
    assert again == whole == Powers(cores=2).of_messages(messages, bytes(32), exponent)
    assert sum(seen) == size
