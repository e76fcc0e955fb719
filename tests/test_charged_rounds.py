"""A silo's ledger in its rounds: charged before a vector is kept, once for each, never beyond the budget."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    PolicyRefused,
    PrivacyBudgetExhausted,
    RoundAborted,
)
from secagg.masking.params import Masking
from secagg.messages import ConsistencyCheck, FromSilo, Ready, Refused, TrainingOpened
from secagg.plain import Plain
from secagg.privacy.charge import events_of
from secagg.privacy.events import Unprotected
from secagg.privacy.ledger import Budget, Ledger
from secagg.rounds.memory import Memory
from secagg.rounds.silo import refusal
from secagg.survivors import lock_key
from secagg.terms import LocalNoise, SiloNoise, training_digest
from tests.federations import PAILLIER, Federation, Witness
from tests.ledgers import NOISE, Ledgered

LOCAL = LocalNoise(l2_clip_norm=1.0, noise_multiplier=2.0, sampling_rate=1.0, steps=3, delta=1e-5)


def opened(federation: Federation, **changes: Any) -> TrainingOpened:
    return TrainingOpened(replace(federation.terms, **changes), 60.0)


def entries(federation: Ledgered, silo: str = "north") -> int:
    return len(federation.books[silo].lines)


def test_without_a_ledger_nothing_is_done_with_noise() -> None:
    federation = Federation(4, privacy=NOISE)
    silo = federation.participant("north")
    with pytest.raises(PolicyRefused) as refused:
        silo.receive(opened(federation))
    assert refused.value.rule == "privacy"
    assert federation.work["north"].trained == 0
    assert isinstance(silo.receive(opened(federation, privacy=None)).output, Ready)


@pytest.mark.parametrize("noise", [NOISE, LOCAL, None], ids=["silo", "local", "none"])
def test_a_vector_is_charged_with_what_its_terms_cost(noise: Any) -> None:
    federation = Ledgered(privacy=noise)
    federation.participant("north").receive(opened(federation))
    (entry,) = federation.books["north"].open().entries
    assert entry.events == events_of(federation.terms)
    assert entry.training == training_digest(federation.terms)
    assert (entry.federation, entry.job, entry.round, entry.release) == ("tests", "job", 1, 1)
    assert (entry.events == (Unprotected(),)) == (noise is None)


def test_beyond_the_budget_nothing_is_computed_and_the_coordinator_is_told_the_rule_alone() -> None:
    federation = Ledgered()
    federation.books["north"].allow(Budget(epsilon=1e-3))
    silo = federation.participant("north")
    for _ in range(2):
        with pytest.raises(PrivacyBudgetExhausted):
            silo.receive(opened(federation))
    assert refusal(PrivacyBudgetExhausted("text")) == Refused("privacy budget")
    assert federation.work["north"].trained == 0
    assert not federation.caches["north"]
    assert not entries(federation)
    # The others go on without it.
    for other in federation.silos.values():
        other.restart()
    total = federation.run(federation.coordinator())
    assert total.survivors == ("south", "west", "east")


def test_what_could_not_be_written_down_is_not_kept_and_does_not_leave() -> None:
    federation = Ledgered()
    silo, book = federation.participant("north"), federation.books["north"]
    book.full = True
    with pytest.raises(EnvironmentFault):
        silo.receive(opened(federation))
    assert not federation.caches["north"]
    assert not book.open().entries
    book.full = False
    assert isinstance(silo.receive(opened(federation)).output, Ready)
    assert len(book.open().entries) == 1


def test_a_vector_is_on_the_ledger_before_it_is_in_the_cache() -> None:
    federation = Ledgered()
    book, cached = federation.books["north"], federation.caches["north"]
    found: list[int] = []

    def keep(line: bytes, chain: bytes) -> None:
        found.append(len(cached))

    book.ledger = Ledger("default", genesis=bytes(32), budget=None, keep=keep, clock=lambda: 1)
    federation.participant("north").receive(opened(federation))
    assert found == [0]
    assert len(cached) == 1


@pytest.mark.parametrize("scheme", [Masking(), PAILLIER], ids=lambda scheme: type(scheme).__name__)
def test_attempts_repetitions_and_crashes_cost_nothing_and_change_nothing(scheme: Any) -> None:
    """The noise is in the vector that is kept: drawn anew, it would be averaged out."""
    federation = Ledgered(scheme)
    coordinator = federation.coordinator()
    lost = iter(range(2))

    def silent_twice(message: FromSilo) -> FromSilo | None:
        return None if isinstance(message, ConsistencyCheck) and next(lost, None) is not None else message

    for name in ("south", "west"):
        federation.silos[name].tamper = silent_twice
    federation.run(coordinator)
    assert coordinator.attempt == 2
    federation.silos["north"].restart()
    silo = federation.participant("north")
    for _ in range(2):
        silo.receive(opened(federation))
    for name, work in federation.work.items():
        assert work.trained == 1
        assert entries(federation, name) == 1


def test_a_vector_that_was_lost_after_it_was_charged_is_charged_again() -> None:
    """Whether it left cannot be known: its noise is another one."""
    federation = Ledgered()
    federation.participant("north").receive(opened(federation))
    federation.caches["north"].clear()
    federation.participant("north").receive(opened(federation))
    assert entries(federation) == 2


def test_a_later_release_is_charged_and_may_be_over_another_set() -> None:
    federation = Ledgered()
    federation.run(federation.coordinator(), {"west": "MaskedInput"})
    first = federation.terms
    federation.terms = replace(first, release=2)
    coordinator = federation.coordinator(memory=Memory(attempt=1, release=2))
    total = federation.run(coordinator)
    assert total.survivors == federation.roster.silos
    assert entries(federation) == 2
    assert {entry.release for entry in federation.books["north"].open().entries} == {1, 2}
    # The first release is locked as it was.
    federation.terms = replace(first, job="another")
    with pytest.raises(RoundAborted):
        federation.run(federation.coordinator(attempts=1))
    assert any("another set" in str(error) for error in federation.silos["north"].errors)
    locks = [lock_key("default", terms) for terms in (first, replace(first, release=2))]
    assert len(set(locks)) == 2


def test_terms_that_no_round_can_have_are_the_coordinators_fault() -> None:
    federation = Ledgered(privacy=SiloNoise(1.0, 1.0, 1e-5))  # The codec takes no share below 4 steps.
    silo = federation.participant("north")
    with pytest.raises(FaultyCoordinator, match="at least 4"):
        silo.receive(opened(federation))
    assert federation.work["north"].trained == 0
    assert not entries(federation)


def test_rounds_without_protection_have_no_heads_and_are_charged() -> None:
    federation = Ledgered(Plain(), privacy=LOCAL)
    coordinator = federation.coordinator()
    federation.run(coordinator)
    assert all(entries(federation, silo) == 1 for silo in federation.roster.silos)
    assert not any(federation.heads_held(silo) for silo in federation.roster.silos)


def test_a_head_is_of_the_ledger_after_the_charge_of_its_round() -> None:
    federation = Ledgered()
    coordinator: Witness = federation.coordinator()
    federation.run(coordinator)
    checks = [(silo, sent) for silo, sent in coordinator.log if isinstance(sent, ConsistencyCheck)]
    assert len(checks) == 4
    for silo, check in checks:
        assert check.head is not None
        assert (check.head.entries, check.head.chain) == federation.books[silo].open().head
