"""A silo's ledger in its rounds: charged before a vector leaves, once for each, never beyond the budget."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace

from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    PolicyRefused,
    PrivacyBudgetExhausted,
    RoundAborted,
    SecaggError,
)
from secagg.masking.params import Masking
from secagg.messages import (
    ConsistencyCheck,
    EncryptedInput,
    FromSilo,
    MaskedInput,
    PlainInput,
    Ready,
    Refused,
    TrainingOpened,
)
from secagg.plain import Plain
from secagg.privacy.charge import events_of
from secagg.privacy.events import Unprotected
from secagg.privacy.ledger import Budget, Ledger
from secagg.rounds.memory import Memory
from secagg.rounds.silo import refusal
from secagg.survivors import lock_key
from secagg.terms import LocalNoise, SiloNoise, training_digest
from tests.federations import ENCRYPTED, PAILLIER, Federation, Witness
from tests.ledgers import NOISE, Ledgered

LOCAL = LocalNoise(l2_clip_norm=1.0, noise_multiplier=2.0, sampling_rate=1.0, steps=3, delta=1e-5)
INPUTS = MaskedInput | EncryptedInput | PlainInput


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


SCHEMES = pytest.mark.parametrize(
    "scheme", [Masking(), *ENCRYPTED, Plain()], ids=lambda scheme: type(scheme).__name__
)


@pytest.mark.parametrize("noise", [NOISE, LOCAL, None], ids=["silo", "local", "none"])
def test_a_vector_is_charged_with_what_its_terms_cost(noise: Any) -> None:
    federation = Ledgered(privacy=noise)
    federation.run(federation.coordinator())
    (entry,) = federation.books["north"].open().entries
    assert entry.events == events_of(federation.terms)
    assert entry.training == training_digest(federation.terms)
    assert (entry.federation, entry.job, entry.round, entry.release) == ("tests", "job", 1, 1)
    assert (entry.events == (Unprotected(),)) == (noise is None)


@SCHEMES
def test_training_that_leads_to_no_attempt_costs_nothing(scheme: Any) -> None:
    federation = Ledgered(scheme, privacy=LOCAL)
    for silo in federation.silos.values():
        silo.tamper = lambda _: None
    with pytest.raises(SecaggError):
        federation.run(federation.coordinator(attempts=1))
    for silo in federation.silos.values():
        silo.tamper = None
    assert all(work.trained == 1 for work in federation.work.values())
    assert not any(entries(federation, silo) for silo in federation.roster.silos)
    federation.run(federation.coordinator())
    assert all(work.trained == 1 for work in federation.work.values())
    assert all(entries(federation, silo) == 1 for silo in federation.roster.silos)


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


@SCHEMES
def test_what_could_not_be_written_down_does_not_leave(scheme: Any) -> None:
    federation = Ledgered(scheme, privacy=LOCAL)
    book, kept = federation.books["north"], federation.caches["north"]
    book.full = True
    # One more is silent: where a quorum is needed, the round ends here.
    federation.silos["east"].tamper = lambda reply: None if isinstance(reply, INPUTS) else reply
    coordinator = federation.coordinator(attempts=1)
    with suppress(RoundAborted):
        federation.run(coordinator)
    (error,) = federation.silos["north"].errors
    assert isinstance(error, EnvironmentFault)
    assert coordinator.losses["north"] == "refused: error"
    assert not [sent for silo, sent in coordinator.log if silo == "north" and isinstance(sent, INPUTS)]
    assert not book.open().entries
    # Once there is room it goes on with the vector that it kept.
    book.full = False
    assert list(kept) == [training_digest(federation.terms)]
    federation.silos["east"].tamper = None
    total = federation.run(federation.coordinator(memory=Memory(attempt=1)))
    assert total.survivors == federation.roster.silos
    assert len(book.open().entries) == 1
    assert federation.work["north"].trained == 1


@SCHEMES
def test_a_vector_is_on_the_ledger_before_it_leaves(scheme: Any) -> None:
    federation = Ledgered(scheme, privacy=LOCAL)
    coordinator = federation.coordinator()
    left: list[int] = []

    def keep(line: bytes, chain: bytes) -> None:
        left.append(sum(silo == "north" and isinstance(sent, INPUTS) for silo, sent in coordinator.log))

    ledger = Ledger("default", genesis=bytes(32), budget=None, keep=keep, clock=lambda: 1)
    federation.books["north"].ledger = ledger
    federation.silos["north"].restart()
    federation.run(coordinator)
    assert left == [0]
    assert sum(silo == "north" and isinstance(sent, INPUTS) for silo, sent in coordinator.log) == 1


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


def test_a_vector_that_was_lost_before_it_left_is_made_again() -> None:
    federation = Ledgered()
    federation.participant("north").receive(opened(federation))
    federation.caches["north"].clear()
    federation.participant("north").receive(opened(federation))
    assert federation.work["north"].trained == 2
    assert not entries(federation)
    federation.run(federation.coordinator())
    assert entries(federation) == 1


@pytest.mark.parametrize("noise", [NOISE, LOCAL], ids=["silo", "local"])
def test_a_vector_that_was_lost_after_it_was_charged_is_not_made_again(noise: Any) -> None:
    """With fresh noise under the same terms two sums would show the shares of the peers."""
    federation = Ledgered(privacy=noise)
    federation.run(federation.coordinator())
    federation.caches["north"].clear()
    silo = federation.participant("north")
    for _ in range(2):
        with pytest.raises(PolicyRefused) as refused:
            silo.receive(opened(federation))
        assert refused.value.rule == "release"
    assert federation.work["north"].trained == 1
    assert entries(federation) == 1
    assert not federation.caches["north"]
    # Other terms are another vector.
    assert isinstance(silo.receive(opened(federation, round=2)).output, Ready)
    assert federation.work["north"].trained == 2


def test_a_vector_without_noise_that_was_lost_is_made_again_and_counted_once() -> None:
    federation = Ledgered(privacy=None)
    federation.run(federation.coordinator())
    federation.caches["north"].clear()
    federation.run(federation.coordinator(memory=Memory(attempt=1)))
    assert federation.work["north"].trained == 2
    assert entries(federation) == 1


def test_another_release_is_the_way_on_for_a_vector_that_was_lost() -> None:
    federation = Ledgered()
    federation.run(federation.coordinator())
    federation.caches["north"].clear()
    coordinator = federation.coordinator(memory=Memory(attempt=1), attempts=1)
    with pytest.raises(RoundAborted):  # The set that the others signed cannot form again.
        federation.run(coordinator)
    assert coordinator.losses["north"] == "refused: release"
    federation.terms = replace(federation.terms, release=2)
    total = federation.run(federation.coordinator(memory=Memory(attempt=2, release=2)))
    assert total.survivors == federation.roster.silos
    assert entries(federation) == 2


@pytest.mark.parametrize(
    "error",
    [OverflowError(), ZeroDivisionError(), ValueError(), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_noise_of_which_no_account_can_be_made_is_the_coordinators_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Ledgered()
    silo, ledger = federation.participant("north"), federation.books["north"].open()

    def check(events: Any) -> None:
        raise error

    monkeypatch.setattr(ledger, "check", check)
    with pytest.raises(FaultyCoordinator, match="no account"):
        silo.receive(opened(federation))
    assert federation.work["north"].trained == 0


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


@pytest.mark.parametrize("scheme", [Masking(), *ENCRYPTED], ids=lambda scheme: type(scheme).__name__)
def test_a_head_is_of_the_ledger_after_the_charge_of_its_round(scheme: Any) -> None:
    federation = Ledgered(scheme)
    coordinator: Witness = federation.coordinator()
    federation.run(coordinator)
    sent = [(silo, said) for silo, said in coordinator.log if isinstance(said, MaskedInput | EncryptedInput)]
    assert len(sent) == 4
    for silo, said in sent:
        assert said.head is not None
        assert said.head.entries == 1
        assert (said.head.entries, said.head.chain) == federation.books[silo].open().head
