"""Attack ``parameter_split``: train the victim as usual and everybody else with a learning rate of 0.

The updates of the others are zero, so the sum over all of them is the victim's update, and every threshold is
met. It is the training digest, under every signature, that differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from secagg.errors import FaultyCoordinator, FaultySiloOrCoordinator
from secagg.fixedpoint import plan_sum
from secagg.messages import KeysAnnounced, Ready
from secagg.names import IntegerVector, SiloId
from secagg.terms import Terms, training_digest
from tests.adversary.harness import Attempt, Federation, Liar, refusals

VICTIM = "c"
TRAINING = (("epochs", 1), ("learning_rate", 0.1))


def trained(federation: Federation, silo: SiloId) -> Callable[[Terms], IntegerVector]:
    """A silo whose update is zero when nothing is learned."""

    def vector(terms: Terms) -> IntegerVector:
        rate = dict(terms.training)["learning_rate"]
        return federation.vector(silo) * np.uint32(rate != 0.0)

    return vector


def attack(federation: Federation, changes: dict[str, Any]) -> None:
    """Run a round in which everybody but the victim has ``changes`` in its terms."""
    for silo, host in federation.silos.items():
        host.work.data = trained(federation, silo)
    liar = Liar(federation)
    true = federation.terms(training=TRAINING)
    other = federation.terms(**({"training": TRAINING} | changes))
    rest = [silo for silo in federation.roster.silos if silo != VICTIM]
    assert all(isinstance(reply, Ready) for reply in liar.train(true, [VICTIM]).values())
    assert all(isinstance(reply, Ready) for reply in liar.train(other, rest).values())
    attempt = Attempt(liar, true)
    beside = attempt.beside(other)
    attempt.advertise([VICTIM])
    beside.advertise(rest)
    everybody = federation.roster.silos
    attempt.announce_keys(to=[VICTIM])
    beside.announce_keys(to=rest)
    if attempt.dealt.keys() == set(everybody):
        attempt.announce_shares(to=[VICTIM])
        beside.announce_shares(to=rest)
        attempt.announce_survivors(everybody, to=[VICTIM])
        beside.announce_survivors(everybody, to=rest)
        attempt.request(everybody, to=[VICTIM])
        beside.request(everybody, to=rest)


def check(federation: Federation) -> None:
    opened = [exposure.total for exposure in federation.knowledge.exposures()]
    true = federation.vector(VICTIM)
    assert not any(np.array_equal(total, true) for total in opened), "the sum is the victim's update"
    assert not opened
    assert not federation.knowledge.uploads
    # The victim's peers, or the coordinator, signed for other terms; the peers say the same of the victim.
    for silo, host in federation.silos.items():
        [error] = host.errors
        assert isinstance(error, FaultySiloOrCoordinator)
        assert error.silo != silo
        assert (error.silo == VICTIM) == (silo != VICTIM)


SPLITS: dict[str, dict[str, Any]] = {
    "learning rate": {"training": (("epochs", 1), ("learning_rate", 0.0))},
    "epochs": {"training": (("epochs", 9), ("learning_rate", 0.1))},
    "a type": {"training": (("epochs", 1.0), ("learning_rate", 0.1))},
    "job": {"job": "another"},
    "round": {"round": 2},
    "kind": {"kind": "train"},
    "encoding": {"encoding": plan_sum(3, clip=9.0, cohort=5)},
    "cohort of the encoding": {"encoding": plan_sum(3, clip=8.0, cohort=6)},
}


@pytest.mark.parametrize("split", SPLITS)
def test_parameter_split(split: str) -> None:
    federation = Federation(5)
    attack(federation, SPLITS[split])
    check(federation)


def test_parameter_split_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(terms: Terms) -> bytes:
        return training_digest(msgspec.structs.replace(terms, training=()))

    for module in ("secagg.rounds.silo", "secagg.masking.silo", "tests.adversary.harness"):
        monkeypatch.setattr(f"{module}.training_digest", blind)
    federation = Federation(5)
    attack(federation, SPLITS["learning rate"])
    with pytest.raises(AssertionError, match="the sum is the victim's update"):
        check(federation)


def test_an_attempt_under_other_terms_is_refused_at_once() -> None:
    """Everybody trained under the same terms, and the victim is invited to an attempt of others."""
    federation = Federation(5)
    liar, true = Liar(federation), federation.terms(training=TRAINING)
    for silo, host in federation.silos.items():
        host.work.data = trained(federation, silo)
    liar.train(true)
    other = federation.terms(training=SPLITS["learning rate"]["training"])
    assert not Attempt(liar, other).advertise([VICTIM])
    assert refusals(federation.silos[VICTIM]) == [FaultyCoordinator]
    # And what a silo said in one attempt is not taken for another of the same terms.
    first, second = Attempt(liar, true, 1), Attempt(liar, true, 2)
    first.advertise()
    second.advertise([VICTIM])
    mixed = tuple((first.bundles | second.bundles).items())
    liar.tell(VICTIM, KeysAnnounced(tuple(sorted(mixed))))
    assert refusals(federation.silos[VICTIM])[1:] == [FaultySiloOrCoordinator]
