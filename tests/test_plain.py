"""Plain, beyond the contract: one shot, any number of silos, and only for those who list it."""

from __future__ import annotations

import pytest

from secagg.errors import PolicyRefused, RoundAborted, TooFewSilos, UnexpectedMessage, UsageError
from secagg.masking.params import Masking
from secagg.messages import PlainInput, PlainSum, RoundOpened
from secagg.plain import Plain, PlainCoordinator, PlainSilo
from secagg.policy import Policy
from secagg.terms import training_digest
from tests.federations import Federation, Witness


def plain(n: int, **named: object) -> tuple[Federation, Witness]:
    federation = Federation(n, scheme=Plain(), **named)  # type: ignore[arg-type]
    return federation, federation.coordinator()


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_any_number_of_silos(n: int) -> None:
    federation, coordinator = plain(n)
    total = federation.run(coordinator)
    assert total.total.tolist() == federation.sum_of(federation.roster.silos)
    sent = {type(message).__name__ for _, message in coordinator.log}
    assert sent == {"TrainingOpened", "Ready", "RoundOpened", "PlainInput", "PlainSum"}


def test_one_silo_is_enough_and_none_is_not() -> None:
    federation, coordinator = plain(4)
    lost = dict.fromkeys(("north", "south", "west"), "MaskedInput")
    total = federation.run(coordinator, lost)  # type: ignore[arg-type]
    assert total.survivors == ("east",)
    federation, coordinator = plain(4)
    with pytest.raises(TooFewSilos):
        federation.run(coordinator, dict.fromkeys(federation.roster.silos, "MaskedInput"))


def test_only_a_silo_that_lists_it_takes_part() -> None:
    federation, coordinator = plain(4, policy=Policy())
    with pytest.raises(RoundAborted):
        federation.run(coordinator)
    for silo in federation.silos.values():
        [error] = silo.errors
        assert isinstance(error, PolicyRefused)
        assert error.rule == "scheme"
    assert not any(isinstance(message, PlainInput) for _, message in coordinator.log)


def test_nothing_is_signed_and_nothing_is_locked() -> None:
    federation, coordinator = plain(4)
    federation.run(coordinator)
    records = [line for silo in federation.silos.values() for line in silo.journal]
    assert len(records) == 4
    assert all(b"AttemptJoined" in record for record in records)


def test_the_vector_is_not_changed_and_sent_once() -> None:
    federation, _ = plain(4)
    vector = federation.vectors["north"]
    before = vector.tobytes()
    silo = PlainSilo(terms=federation.terms, vector=vector)
    opened = RoundOpened(training_digest(federation.terms), 1, 60.0)
    sent = silo.receive(opened).output
    assert isinstance(sent, PlainInput)
    assert sent.vector.array().tolist() == [*vector.tolist(), 1]
    assert vector.tobytes() == before
    with pytest.raises(UnexpectedMessage):
        silo.receive(opened)


def test_a_vector_or_a_sum_of_another_round_changes_nothing() -> None:
    federation, coordinator = plain(4)
    session = PlainCoordinator(federation.roster, terms=federation.terms, attempt=1, seconds=60.0)
    session.open(0.0)
    silo = PlainSilo(terms=federation.terms, vector=federation.vectors["north"])
    sent = silo.receive(RoundOpened(training_digest(federation.terms), 1, 60.0)).output
    assert isinstance(sent, PlainInput)
    with pytest.raises(UnexpectedMessage, match="another round"):
        session.receive("north", PlainInput(bytes(32), sent.vector))
    assert "north" in session.waiting
    session.receive("north", sent)
    federation.run(coordinator)
    total = next(message for _, message in coordinator.log if isinstance(message, PlainSum))
    with pytest.raises(UnexpectedMessage, match="another round"):
        silo.receive(PlainSum(bytes(32), total.survivors, total.total))
    silo.receive(total)
    assert silo.outcome is not None


def test_a_sum_is_taken_only_after_the_input_was_sent() -> None:
    federation, coordinator = plain(4)
    federation.run(coordinator)
    total = next(message for _, message in coordinator.log if isinstance(message, PlainSum))
    silo = PlainSilo(terms=federation.terms, vector=federation.vectors["north"])
    with pytest.raises(UnexpectedMessage):
        silo.receive(total)


def test_terms_of_another_scheme_are_refused() -> None:
    federation = Federation(4, scheme=Masking())
    with pytest.raises(UsageError):
        PlainCoordinator(federation.roster, terms=federation.terms, attempt=1, seconds=60.0)
