"""Attack ``policy_floor``: offer terms below what one silo accepts, at the start or in the middle of a round.

The victim assumes two colluders among six, and there are two; the others assume one. With the c = 1 and t = 4
that are offered, two sets can have t signatures each, and both secrets of the victim are revealed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secagg.cohort import Cohort
from secagg.errors import FaultyCoordinator, PolicyRefused
from secagg.fixedpoint import plan_sum
from secagg.messages import Ready, Refused
from secagg.policy import Policy
from secagg.records import AttemptJoined
from secagg.terms import MaskingParameters, PlainParameters, Terms
from tests.adversary.harness import Attempt, Federation, Liar, named, refusals

VICTIM, COLLUDERS = "a", "ef"
LIVES, LOST = ("a", "b"), ("c", "d")


def attack(federation: Federation) -> None:
    """Tell half of the silos that the victim lives and the other half that it is lost."""
    federation.policies[VICTIM] = Policy(colluders=len(COLLUDERS))
    federation.silos[VICTIM].restart()
    liar, terms = Liar(federation), federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.until_masked()
    everybody = tuple(attempt.dealt)
    others = tuple(silo for silo in everybody if silo != VICTIM)
    for survivors, asked in ((everybody, LIVES), (others, LOST)):
        attempt.announce_survivors(survivors, to=asked)
        attempt.collude(survivors)
        attempt.request(survivors, to=asked)


def check(federation: Federation) -> None:
    recovered = federation.knowledge.vector_of(VICTIM)
    assert recovered is None or not np.array_equal(recovered, federation.vector(VICTIM)), (
        "the victim's vector"
    )
    victim = federation.silos[VICTIM]
    assert refusals(victim) == [PolicyRefused]
    assert str(victim.errors[0]) == "colluders: 1 is offered, 2 is the least that this silo accepts"
    assert not victim.journal
    assert not named(federation)


def test_policy_floor() -> None:
    federation = Federation(6, colluders=COLLUDERS)
    assert (federation.cohort.c, federation.cohort.t) == (1, 4)
    attack(federation)
    check(federation)


def test_policy_floor_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.policy.Policy._floor", lambda *_: None)
    federation = Federation(6, colluders=COLLUDERS)
    attack(federation)
    with pytest.raises(AssertionError, match="the victim's vector"):
        check(federation)


OFFERS: list[tuple[str, Policy, dict[str, Any]]] = [
    ("min_silos", Policy(min_silos=8), {}),
    ("colluders", Policy(), {"scheme": MaskingParameters(Cohort.of(7, c=1))}),
    ("colluders", Policy(colluders=3), {}),
    ("threshold", Policy(min_threshold=6), {}),
    ("min_honest", Policy(min_honest=3), {}),
    ("max_clip", Policy(max_clip=4.0), {}),
    ("encoding", Policy(), {"encoding": plan_sum(3, clip=8.0, cohort=6)}),
    ("cohort", Policy(), {"scheme": MaskingParameters(Cohort.of(6))}),
    ("roster", Policy(), {"roster": bytes(32)}),
    ("release", Policy(), {"release": 2}),
    ("scheme", Policy(), {"scheme": PlainParameters()}),
    ("scheme", Policy(schemes=frozenset({"plain"})), {}),
]


def offered(policy: Policy, changes: dict[str, Any], *, midway: bool) -> tuple[Federation, Any, Terms]:
    """Make an offer, perhaps while the silo is in a round with sound terms; return what it says."""
    federation = Federation(7)
    liar, sound = Liar(federation), federation.terms(job="sound")
    if midway:
        liar.train(sound)
        Attempt(liar, sound).until_masked()
    federation.policies[VICTIM] = policy
    if midway:
        # A policy is read when the service starts; here it takes effect without ending the round.
        federation.silos[VICTIM].participant._policy = policy
    else:
        federation.silos[VICTIM].restart()
    terms = federation.terms(**changes)
    reply = liar.train(terms, [VICTIM])[VICTIM]
    Attempt(liar, terms).advertise([VICTIM])
    return federation, reply, terms


@pytest.mark.parametrize("midway", [False, True])
@pytest.mark.parametrize(("rule", "policy", "changes"), OFFERS)
def test_every_floor_refuses_by_its_name(
    rule: str, policy: Policy, changes: dict[str, Any], midway: bool
) -> None:
    federation, reply, terms = offered(policy, changes, midway=midway)
    victim = federation.silos[VICTIM]
    # The coordinator learns the rule, and not where the floor is.
    assert reply == Refused(rule)
    assert isinstance(victim.errors[0], PolicyRefused)
    assert victim.errors[0].rule == rule
    joined = [record.job for record in victim.records if isinstance(record, AttemptJoined)]
    assert joined == (["sound"] if midway else []), f"the silo joined a round of {terms.job!r}"
    assert not named(federation)


@pytest.mark.parametrize(("rule", "policy", "changes"), OFFERS)
def test_every_floor_refuses_by_its_name_mutant(
    monkeypatch: pytest.MonkeyPatch, rule: str, policy: Policy, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("secagg.policy.Policy.check", lambda *_: None)
    federation, reply, terms = offered(policy, changes, midway=False)
    assert isinstance(reply, Ready), rule
    assert [r.job for r in federation.silos[VICTIM].records if isinstance(r, AttemptJoined)] == [terms.job]


def test_an_attempt_cannot_bring_other_terms() -> None:
    """Training was for sound terms; the attempt names the digest of others."""
    federation = Federation(7)
    liar, sound = Liar(federation), federation.terms()
    liar.train(sound)
    low = federation.terms(scheme=MaskingParameters(Cohort.of(7, c=1)))
    assert not Attempt(liar, low).advertise()
    for silo in federation.silos.values():
        assert refusals(silo) == [FaultyCoordinator]
        assert not silo.journal
