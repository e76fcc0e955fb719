"""Attack ``subset_invite``: invite the victim with colluders only, so that n, c and t shrink to fit them.

The colluders pin a roster of the three and play along. A sum over three with t = 3 would be sound, were there
not two colluders in it: the rest is the victim's vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secagg.cohort import Cohort
from secagg.errors import FaultyCoordinator, PolicyRefused
from secagg.fixedpoint import plan_sum
from secagg.messages import Refused
from secagg.names import SiloId
from secagg.roster import Roster
from secagg.terms import MaskingParameters
from tests.adversary.harness import Attempt, Federation, Liar, named

VICTIM, COLLUDERS = "b", "fg"
FEW: tuple[SiloId, ...] = (VICTIM, *COLLUDERS)


def invitation(federation: Federation) -> dict[str, Any]:
    """The terms of a federation of three."""
    return {
        "roster": Roster.of({silo: federation.identities[silo].public for silo in FEW}).digest,
        "scheme": MaskingParameters(Cohort.of(3)),
        "encoding": plan_sum(federation.encoding.length, clip=8.0, cohort=3),
    }


def attack(federation: Federation) -> dict[str, Any]:
    """Run the round of three; return what the victim says to each way of offering less than n."""
    liar, small = Liar(federation), invitation(federation)
    replies = {}
    for what, changes in {
        "roster": small,
        "cohort": small | {"roster": federation.roster.digest, "encoding": federation.encoding},
        "encoding": small | {"roster": federation.roster.digest},
    }.items():
        replies[what] = liar.train(federation.terms(job=what, **changes), [VICTIM])[VICTIM]

    for silo in COLLUDERS:
        federation.silos[silo].roster = Roster.of({s: federation.identities[s].public for s in FEW})
        federation.silos[silo].restart()
    terms = federation.terms(job="round", **small)
    liar.train(terms, FEW)
    attempt = Attempt(liar, terms)
    attempt.until_masked(FEW)
    attempt.finish(FEW)
    return replies


def check(federation: Federation, replies: dict[str, Any]) -> None:
    recovered = federation.knowledge.vector_of(VICTIM)
    assert recovered is None or not np.array_equal(recovered, federation.vector(VICTIM)), (
        "the victim's vector"
    )
    for rule, reply in replies.items():
        assert reply == Refused(rule)
    victim = federation.silos[VICTIM]
    assert [e.rule for e in victim.errors if isinstance(e, PolicyRefused)] == [*replies, "roster"]
    assert not victim.journal
    assert not federation.knowledge.uploads
    assert not named(federation)


def test_subset_invite() -> None:
    federation = Federation(7, colluders=COLLUDERS)
    check(federation, attack(federation))


def test_subset_invite_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.policy.Policy.check", lambda *_: None)
    federation = Federation(7, colluders=COLLUDERS)
    replies = attack(federation)
    with pytest.raises(AssertionError, match="the victim's vector"):
        check(federation, replies)


def test_a_subset_of_the_keys_is_refused_too() -> None:
    """The terms are right, but only the three are announced: below t, so nothing is shared."""
    federation = Federation(7, colluders=COLLUDERS)
    liar, terms = Liar(federation), federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.advertise()
    few = {silo: attempt.bundles[silo] for silo in FEW}
    assert not attempt.announce_keys(few, to=[VICTIM])
    assert [type(error) for error in federation.silos[VICTIM].errors] == [FaultyCoordinator]
    assert "3 silos; t = 5 are needed" in str(federation.silos[VICTIM].errors[0])
