"""The ledger without a file: what it refuses, what it adds up, what it does not take for its lines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import EnvironmentFault, ParameterError, PrivacyBudgetExhausted
from secagg.hazmat.identity import IdentityKey
from secagg.privacy import accountant
from secagg.privacy.entries import LAST_SECOND, Entry, LedgerDamaged, genesis, link, read
from secagg.privacy.events import Event, Release, Unprotected
from secagg.privacy.heads import LedgerHead, head_fault
from secagg.privacy.ledger import DAY, Budget, Ledger
from secagg.roster import Roster
from tests.privacy.ledgers import (
    BARE,
    BUDGET,
    NAME,
    NONCE,
    RECORD,
    ROUND,
    SILO,
    START,
    Clock,
    Kept,
    charge,
    head_of,
    ledger,
)

Pairs = list[tuple[bytes, bytes]]


def until_refused(held: Ledger, *events: Event) -> int:
    """Charge until the budget is spent; return how often."""
    for number in range(1000):
        try:
            charge(held, number + 1, *events)
        except PrivacyBudgetExhausted:
            return number
    raise AssertionError("nothing was refused")


def room(event: Release) -> int:
    """How often ``event`` fits into the budget, by a search of its own."""
    count = 0
    while accountant.epsilon([event] * (count + 1), delta=BUDGET.delta, unit=event.unit) <= BUDGET.epsilon:
        count += 1
    return count


# --- what is charged ----------------------------------------------------------------------------------------


def test_what_is_charged_is_kept_before_it_is_there() -> None:
    seen: list[tuple[int, bytes]] = []

    def keep(line: bytes, chain: bytes) -> None:
        assert held.head == (len(seen), seen[-1][1] if seen else genesis(NAME, NONCE))
        seen.append((len(line), chain))

    held = ledger(Clock(), keep=keep)
    for number in (1, 2, 3):
        assert charge(held, number).number == number
        assert held.head == (number, seen[-1][1])
    assert held.chains == tuple(chain for _, chain in seen)


def test_what_could_not_be_kept_is_not_there_and_a_later_charge_is_right() -> None:
    kept = Kept()

    def keep(line: bytes, chain: bytes) -> None:
        if full:
            raise EnvironmentFault("the disk is full")
        kept(line, chain)

    full, held = False, ledger(Clock(), keep=lambda *pair: keep(*pair))
    charge(held, 1)
    before, full = (held.head, held.entries, held.spent("record")), True
    with pytest.raises(EnvironmentFault, match="is full"):
        charge(held, 2)
    assert (held.head, held.entries, held.spent("record")) == before
    full = False
    charge(held, 3)
    again = ledger(Clock(), lines=kept.pairs)
    assert [entry.round for entry in again.entries] == [1, 3]
    assert again.head == held.head


@pytest.mark.parametrize("event", [RECORD, SILO, Release("record", 2.0, 0.01, count=1000)])
def test_the_budget_is_never_exceeded_and_used_up(event: Release) -> None:
    kept = Kept()
    held = ledger(Clock(), keep=kept)
    assert until_refused(held, event) == room(event) > 0
    assert len(kept.pairs) == room(event)
    assert held.spent(event.unit) <= BUDGET.epsilon
    assert held.left(event.unit) == BUDGET.epsilon - held.spent(event.unit)
    with pytest.raises(PrivacyBudgetExhausted):
        held.check([event])


def test_a_check_writes_nothing() -> None:
    kept = Kept()
    held = ledger(Clock(), keep=kept)
    held.check([RECORD, SILO, BARE])
    assert (held.entries, kept.pairs) == ((), [])


def test_the_budget_spans_federations_jobs_and_starts() -> None:
    kept, clock = Kept(), Clock()
    for number in range(room(RECORD)):
        held = ledger(clock, keep=kept, lines=kept.pairs)
        charge(held, 1, federation=f"f{number % 2}", job=f"job-{number}")
    with pytest.raises(PrivacyBudgetExhausted):
        charge(ledger(clock, keep=kept, lines=kept.pairs), 1, federation="other", job="other")


def test_units_have_budgets_of_their_own() -> None:
    held = ledger(Clock())
    until_refused(held, SILO)
    spent = held.spent("silo")
    assert until_refused(ledger(Clock()), RECORD) > 0
    with pytest.raises(PrivacyBudgetExhausted, match=r"^unit silo: "):
        held.check([SILO])
    # A silo's noise hides a record too, with half its multiplier; a record's hides no silo.
    assert held.spent("record") > spent
    records = ledger(Clock())
    charge(records, 1, RECORD)
    assert (records.spent("silo"), records.left("silo")) == (0.0, BUDGET.epsilon)


def test_an_event_without_noise_is_counted_and_never_refused() -> None:
    held = ledger(Clock())
    until_refused(held, RECORD)
    spent = held.spent("record")
    charge(held, 1, BARE, Unprotected(4))
    assert (held.unprotected, held.spent("record")) == (5, spent)
    with pytest.raises(PrivacyBudgetExhausted, match="privacy, which it does not cover: 5"):
        charge(held, 2, BARE, RECORD)
    assert held.unprotected == 5


def test_without_a_budget_everything_is_recorded() -> None:
    clock = Clock()
    held = ledger(clock, budget=None)
    for number in range(1, 200):
        charge(held, number)
        clock.pass_days(30)
    assert len(held.entries) == 199
    assert held.spent("record") == accountant.epsilon([RECORD] * 199, delta=1e-5, unit="record")
    assert held.left("record") == math.inf


def test_a_release_whose_slack_is_too_large_has_no_bound_and_is_refused() -> None:
    with pytest.raises(PrivacyBudgetExhausted, match=r"would be inf .* more than the whole budget"):
        charge(ledger(Clock()), 1, replace(RECORD, slack=0.5))
    held = ledger(Clock(), budget=None)
    charge(held, 1, replace(RECORD, slack=0.6))
    charge(held, 2, replace(RECORD, slack=0.6))
    assert held.spent("record") == math.inf


@given(st.lists(st.tuples(st.sampled_from([RECORD, SILO, Release("record", 7.0)]), st.integers(1, 9))))
def test_epsilon_is_that_of_all_events_in_whatever_order(charged: list[tuple[Release, int]]) -> None:
    held, events = ledger(Clock(), budget=None), [replace(event, count=count) for event, count in charged]
    for number, event in enumerate(events, 1):
        charge(held, number, event)
    expected = accountant.epsilon(events, delta=1e-5, unit="record") if events else 0.0
    assert held.spent("record") == pytest.approx(expected)
    assert held.alone("record", held.entries) == held.spent("record")


def test_hundreds_of_equal_events_ask_the_accountant_once_a_charge(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def epsilon(events: Any, **_: Any) -> float:
        asked.append(len(events))
        return 0.5

    for name in ("epsilon", "coarse_epsilon"):
        monkeypatch.setattr(accountant, name, epsilon)
    held = ledger(Clock())
    for number in range(1, 301):
        charge(held, number)
        assert held.alone("record", ()) == 0.0
    assert asked == [1] * 300


# --- time ---------------------------------------------------------------------------------------------------


def test_what_is_older_than_the_period_is_free_again_and_not_before() -> None:
    clock = Clock()
    held = ledger(clock)
    until_refused(held)
    clock.now = START + BUDGET.period - 1
    with pytest.raises(PrivacyBudgetExhausted):
        charge(held)
    clock.now += 1
    assert held.spent("record") == 0.0
    assert held.spent("record", at=START) > 0.0
    charge(held)


@given(st.lists(st.integers(0, 4 * DAY), min_size=1, max_size=40))
def test_no_period_holds_more_than_the_budget(steps: list[int]) -> None:
    clock = Clock()
    held = ledger(clock)
    for number, step in enumerate(steps, 1):
        clock.now += step
        try:
            charge(held, number)
        except PrivacyBudgetExhausted:
            continue
    times = [entry.time for entry in held.entries]
    for end in times:
        inside = sum(end - BUDGET.period < time <= end for time in times)
        assert inside <= room(RECORD)


def test_a_refusal_says_what_and_when() -> None:
    clock = Clock()
    held = ledger(clock)
    charge(held, 1)
    clock.pass_days(2)
    until_refused(held)
    with pytest.raises(PrivacyBudgetExhausted) as caught:
        charge(held, 1)
    text = str(caught.value)
    assert text.startswith("unit record: with this release epsilon would be 1.")
    assert "within 10 days; the budget is 1 at delta 1e-05, and 0.9" in text
    # The first entry alone frees what one release needs; it was on 2027-01-15 08:00 UTC.
    assert text.endswith("Enough is free again from 2027-01-25 08:00 UTC: wait, or plan with more noise")
    with pytest.raises(PrivacyBudgetExhausted, match="from 2027-01-27 08:00 UTC"):
        charge(held, 1, replace(RECORD, count=room(RECORD)))
    with pytest.raises(PrivacyBudgetExhausted, match="more than the whole budget: plan the run"):
        charge(held, 1, replace(RECORD, count=room(RECORD) + 1))


@pytest.mark.parametrize("back", [1, DAY, 400 * DAY, START])
def test_a_clock_that_goes_back_frees_nothing(back: int) -> None:
    kept, clock = Kept(), Clock()
    held = ledger(clock, keep=kept)
    until_refused(held)
    spent = held.spent("record")
    clock.now -= back
    for one in (held, ledger(clock, lines=kept.pairs)):
        assert one.spent("record") == spent
        with pytest.raises(PrivacyBudgetExhausted):
            charge(one)
        assert charge(one, 9, BARE).time == START
    clock.now = START + BUDGET.period - 1
    with pytest.raises(PrivacyBudgetExhausted):
        charge(held)


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": "a b"},
        {"job": ""},
        {"job": "j" * 65},
        {"round": 0},
        {"release": 0},
        {"training": bytes(31)},
        {"events": ()},
        {"events": (BARE,) * 1001},
        {"events": (Unprotected(0),)},
    ],
)
def test_what_could_not_be_read_again_is_not_charged(changes: dict[str, Any]) -> None:
    kept = Kept()
    held = ledger(Clock(), keep=kept, budget=None)
    fields: dict[str, Any] = {
        "federation": "f",
        "job": "j",
        "round": 1,
        "release": 1,
        "training": bytes(32),
        "events": [RECORD],
    }
    with pytest.raises(ParameterError, match="cannot be charged"):
        held.charge(**fields | {"events": [RECORD]} | changes)
    assert (held.entries, kept.pairs) == ((), [])


def test_a_time_that_is_no_date_is_not_charged() -> None:
    with pytest.raises(ParameterError, match="cannot be charged"):
        charge(ledger(Clock(LAST_SECOND), budget=None))


def test_numbers_of_numpy_are_written_as_pythons_own() -> None:
    kept = Kept()
    event = Release("record", np.float64(20.0), np.float32(1.0), np.int64(2))  # type: ignore[arg-type]
    charge(ledger(Clock(), keep=kept), 1, event)
    (entry,) = ledger(Clock(), lines=kept.pairs).entries
    assert entry.events == (Release("record", 20.0, 1.0, 2),)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0},
        {"epsilon": math.inf},
        {"epsilon": math.nan},
        {"delta": 0.0},
        {"delta": 1.0},
        {"period_days": 0},
        {"period_days": 1.5},
        {"period_days": 36_501},
    ],
)
def test_a_budget_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        Budget(**wrong)


# --- lines --------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs() -> Pairs:
    kept, clock = Kept(), Clock()
    held = ledger(clock, keep=kept, budget=None)
    for number in (1, 2, 3):
        clock.pass_days(1)
        charge(held, number, RECORD, BARE)
    return kept.pairs


def chained(lines: list[bytes]) -> Pairs:
    """Return ``lines`` under a chain that fits."""
    chain, found = genesis(NAME, NONCE), []
    for line in lines:
        chain = link(chain, line)
        found.append((line, chain))
    return found


def test_lines_come_back_as_they_were_charged(pairs: Pairs) -> None:
    assert chained([line for line, _ in pairs]) == pairs
    entries = [entry for entry, _ in read(genesis(NAME, NONCE), pairs)]
    assert [(e.number, e.time, e.round) for e in entries] == [(n, START + n * DAY, n) for n in (1, 2, 3)]
    assert entries[0].events == (RECORD, BARE)


@pytest.mark.parametrize(
    "change",
    [
        lambda pairs: [pairs[1], pairs[2]],
        lambda pairs: [pairs[0], pairs[2]],
        lambda pairs: [pairs[0], pairs[0], pairs[1]],
        lambda pairs: [pairs[1], pairs[0], pairs[2]],
        lambda pairs: [(pairs[0][0] + b"\0", pairs[0][1]), *pairs[1:]],
        lambda pairs: [(pairs[0][0], bytes(32)), *pairs[1:]],
        lambda pairs: [(pairs[0][0].replace(b"job-1", b"job-2"), pairs[0][1]), *pairs[1:]],
    ],
    ids=["first gone", "middle gone", "repeated", "moved", "longer", "other chain", "other job"],
)
def test_lines_that_are_not_those_that_were_written_are_refused(
    pairs: Pairs, change: Callable[[Pairs], Pairs]
) -> None:
    with pytest.raises(LedgerDamaged, match="its chain is wrong"):
        ledger(Clock(), lines=change(pairs))


def test_lines_of_another_data_set_or_ledger_are_refused(pairs: Pairs) -> None:
    for first in (genesis("heart", NONCE), genesis(NAME, bytes(32))):
        with pytest.raises(LedgerDamaged):
            list(read(first, pairs))


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda e: {**e, "number": 2}, "says that it is line 2"),
        (lambda e: {**e, "number": 0}, "holds no entry"),
        (lambda e: {**e, "time": -1}, "holds no entry"),
        (lambda e: {**e, "time": LAST_SECOND}, "holds no entry"),
        (lambda e: {**e, "extra": 1}, "holds no entry"),
        (lambda e: {**e, "charged": []}, "holds no entry"),
        (lambda e: {**e, "charged": [{"type": "nothing", "count": 1}]}, "holds no entry"),
        (lambda e: {**e, "charged": [{**e["charged"][0], "noise_multiplier": 0.0}]}, "holds no entry"),
        (lambda e: {**e, "charged": [{**e["charged"][0], "noise_multiplier": 20}]}, "only form"),
        (lambda e: dict(reversed(e.items())), "only form"),
        (lambda e: {**e, "job": "a b"}, "holds no entry"),
        (lambda e: [*e.values()], "holds no entry"),
    ],
)
def test_a_line_that_fits_the_chain_and_is_no_entry_is_refused(
    pairs: Pairs, spoil: Callable[[dict[str, Any]], object], text: str
) -> None:
    line = msgspec.msgpack.encode(spoil(msgspec.msgpack.decode(pairs[0][0])))
    with pytest.raises(LedgerDamaged, match=f"line 1 {text}|line 1 is not in its {text}"):
        ledger(Clock(), lines=chained([line]))


def test_a_line_that_is_earlier_than_the_one_before_is_refused(pairs: Pairs) -> None:
    entries = [msgspec.msgpack.decode(line, type=Entry) for line, _ in pairs]
    entries[1] = msgspec.structs.replace(entries[1], time=entries[0].time - 1)
    with pytest.raises(LedgerDamaged, match="line 2 is earlier"):
        ledger(Clock(), lines=chained([msgspec.msgpack.encode(entry) for entry in entries]))


# --- heads --------------------------------------------------------------------------------------------------

KEYS = {silo: IdentityKey.from_private_bytes(bytes([n]) * 32) for n, silo in enumerate(("a", "b", "c"))}
ROSTER = Roster.of({silo: key.public for silo, key in KEYS.items()})


def heads(*jobs: str) -> list[LedgerHead]:
    """Return the heads of a ledger as it grows by one round of each job."""
    held = ledger(Clock(), budget=None)
    found = [head_of(KEYS["a"], "a", held)]
    for job in jobs:
        charge(held, 1, job=job)
        found.append(head_of(KEYS["a"], "a", held))
    return found


def test_a_head_that_grows_is_right() -> None:
    found = heads("j1", "j2", "j3")
    for head, held in zip(found, [None, *found], strict=False):
        assert head_fault(ROSTER, "a", head, held, context=ROUND) is None
        assert head_fault(ROSTER, "a", head, head, context=ROUND) is None
    assert head_fault(ROSTER, "a", found[3], found[0], context=ROUND) is None


def test_a_head_that_is_behind_is_found() -> None:
    found = heads("j1", "j2")
    for behind in found[:2]:
        fault = head_fault(ROSTER, "a", behind, found[2], context=ROUND)
        assert fault is not None
        assert fault == f"it has {behind.entries} entries and had 2"


def test_a_head_of_another_history_is_found() -> None:
    fault = head_fault(ROSTER, "a", heads("j1", "j3")[2], heads("j1", "j2")[2], context=ROUND)
    assert fault == "its 2 entries are not those that it had"


def test_a_head_that_the_silo_did_not_sign_is_found() -> None:
    one = heads("j1")[1]
    replace_in = msgspec.structs.replace
    for silo, head in (
        ("b", one),
        ("a", replace_in(one, entries=2)),
        ("a", replace_in(one, chain=bytes(32))),
        ("a", replace_in(one, data_set=bytes(32))),
        ("a", replace_in(one, signature=bytes(64))),
        ("a", head_of(KEYS["b"], "a", ledger(Clock()))),
        ("a", head_of(KEYS["a"], "b", ledger(Clock()))),
    ):
        fault = head_fault(ROSTER, silo, head, None, context=ROUND)
        assert fault == "its head is not signed for this round"
    assert head_fault(ROSTER, "d", one, None, context=ROUND) == "its head is not signed for this round"
    assert head_fault(ROSTER, "a", one, None, context=bytes(32)) == "its head is not signed for this round"


def test_each_data_set_has_a_head_of_its_own() -> None:
    held = Ledger("heart", genesis=genesis("heart", NONCE), budget=None, keep=Kept(), clock=Clock())
    assert head_fault(ROSTER, "a", head_of(KEYS["a"], "a", held), heads("j1")[1], context=ROUND) is None
