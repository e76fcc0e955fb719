"""Attack ``differencing``: open a second sum over another set for the same base model, and subtract.

The second set comes as a new attempt, a new round number, a new job, under other parameters, under another
roster, after a restart; or sets that differ pairwise by two silos span one silo together. Whatever it is
called, a silo signs one set for its data and one base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from secagg import wire
from secagg.cohort import Cohort
from secagg.errors import ParameterError, PolicyRefused, RoundAborted
from secagg.explanation import explain
from secagg.fixedpoint import plan_sum
from secagg.masking.params import Masking
from secagg.messages import Refused
from secagg.names import SiloId
from secagg.policy import Policy
from secagg.roster import Roster
from secagg.rounds.coordinator import RoundCoordinator
from secagg.simulation import run_round
from secagg.sums import secure_sum
from secagg.survivors import LockRefused
from tests.adversary.harness import BASE, Attempt, Federation, Liar, named
from tests.adversary.mutants import any_set, forgetful
from tests.counts import count


def opened(liar: Liar, survivors: Iterable[SiloId], *, number: int = 1, **changes: Any) -> bool:
    """Run an attempt to the end with one set; return whether t silos unmasked it."""
    terms = liar.federation.terms(**changes)
    liar.train(terms)
    attempt = Attempt(liar, terms, number)
    attempt.until_masked()
    unmasked = frozenset(attempt.finish(survivors)) | liar.federation.colluders
    return len(unmasked) >= liar.federation.cohort.t


def restart(federation: Federation) -> None:
    for host in federation.silos.values():
        host.restart()


def lose_cache(federation: Federation) -> None:
    for host in federation.silos.values():
        host.cache.clear()
        host.restart()


Between = Callable[[Federation], None]
WAYS: dict[str, tuple[dict[str, Any], Between]] = {
    "a new attempt": ({"number": 2}, lambda _: None),
    "a new round number": ({"round": 2}, lambda _: None),
    "a round number of long ago": ({"round": 1, "job": "job-0"}, lambda _: None),
    "a new job": ({"job": "another"}, lambda _: None),
    "another federation": ({"federation": "another"}, lambda _: None),
    "other parameters": ({"number": 2, "training": (("learning_rate", 0.2),)}, lambda _: None),
    "another kind": ({"number": 2, "kind": "metrics"}, lambda _: None),
    "another encoding": ({"number": 2, "encoding": plan_sum(3, clip=4.0, cohort=6)}, lambda _: None),
    "another threshold": ({"number": 2, "scheme": Masking(threshold=5).parameters(5)}, lambda _: None),
    "a restart": ({"number": 2}, restart),
    "a restart and a new job": ({"job": "another"}, restart),
    "a restart without the cache": ({"job": "another", "round": 7}, lose_cache),
}
VICTIM, COLLUDER = "b", "e"
EVERYBODY, WITHOUT = "abcde", "acde"


def attack(way: str, first: str, second: str) -> Federation:
    federation = Federation(5, colluders=COLLUDER, t=4)
    liar = Liar(federation)
    assert opened(liar, first)
    changes, between = WAYS[way]
    between(federation)
    opened(liar, second, **changes)
    return federation


def check(federation: Federation, first: str, missing: tuple[SiloId, ...], extra: str) -> None:
    recovered = federation.knowledge.vector_of(VICTIM)
    assert recovered is None or not np.array_equal(recovered, federation.vector(VICTIM)), (
        "the victim's vector"
    )
    assert len(federation.knowledge.exposures()) == 1
    for silo in set(federation.honest) & set(first) - set(extra):
        if silo in missing:
            continue  # It was not asked.
        [error] = federation.silos[silo].errors
        assert isinstance(error, LockRefused)
        assert error.silos == missing
        if missing:
            assert f"it can finish when these return: {', '.join(missing)}" in str(error)
            assert f"wait until these return and run the round with the same set: {missing[0]}" in str(
                explain(error, silo=silo)
            )
        if extra:
            assert f"it can finish without: {extra}" in str(error)
    assert not named(federation)


@pytest.mark.parametrize("way", WAYS)
def test_differencing(way: str) -> None:
    if way == "another threshold":
        # t = 5: a set of four is not even looked at. The larger set comes second.
        check(attack(way, WITHOUT, EVERYBODY), WITHOUT, (), VICTIM)
        return
    check(attack(way, EVERYBODY, WITHOUT), EVERYBODY, (VICTIM,), "")
    check(attack(way, WITHOUT, EVERYBODY), WITHOUT, (), VICTIM)


@pytest.mark.parametrize(
    ("way", "defence", "mutant"),
    [
        *((way, "secagg.survivors.Locks.sign", any_set) for way in WAYS if way != "another threshold"),
        *((way, "secagg.survivors.Locks.__init__", forgetful) for way in WAYS if "restart" in way),
    ],
)
def test_differencing_mutant(
    monkeypatch: pytest.MonkeyPatch, way: str, defence: str, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(defence, mutant)
    for first, second in ((EVERYBODY, WITHOUT), (WITHOUT, EVERYBODY)):
        federation = attack(way, first, second)
        with pytest.raises(AssertionError, match="the victim's vector"):
            check(federation, first, (), "")


# --- chains ------------------------------------------------------------------------------------------------


def chain(sets: Sequence[str], seed: int) -> Federation:
    """Offer ``sets`` one after another in random guises, with crashes between them."""
    federation = Federation(7, colluders="fg", seed=seed)
    rng = np.random.default_rng(seed)
    liar = Liar(federation)
    for number, survivors in enumerate(sets, start=1):
        guises: list[dict[str, Any]] = [
            {"number": number},
            {"round": number},
            {"job": f"job-{number}"},
            {"round": number, "job": f"job-{number}", "training": (("seed", number),)},
        ]
        opened(liar, survivors, **guises[int(rng.integers(len(guises)))])
        for silo in federation.roster.silos:
            if rng.random() < 0.2:
                federation.silos[silo].restart()
    return federation


PAIRS = ("abcdefg", "cdefg", "adefg", "bdefg")
"""All, then without a and b, without b and c, without a and c: half of three differences is one silo."""


def check_chain(federation: Federation) -> None:
    cohort = federation.cohort
    exposed = federation.knowledge.smallest(below=cohort.min_survivors - cohort.c)
    assert exposed is None, "a chain of sets leaves fewer than k silos"
    assert len(federation.knowledge.exposures()) <= 1


def random_sets(seed: int) -> list[str]:
    rng = np.random.default_rng([7, seed])
    sets = []
    for _ in range(int(rng.integers(2, 6))):
        size = int(rng.integers(3, 6))
        sets.append("".join(sorted(rng.permutation(list("abcde"))[:size])) + "fg")
    return sets


def test_chains_of_sets() -> None:
    for order in (PAIRS, PAIRS[::-1]):
        federation = chain(order, seed=1)
        check_chain(federation)
        assert len(federation.knowledge.exposures()) == 1  # The first, which is sound by itself.
    for seed in range(count(5, full=150)):
        check_chain(chain(random_sets(seed), seed))


def test_chains_of_sets_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.survivors.Locks.sign", any_set)
    federation = chain(PAIRS, seed=1)
    [exposure] = federation.knowledge.exposures("a")
    assert exposure.coefficients == {("a", BASE): 2}  # All but the highest bit of the vector.
    assert np.array_equal(exposure.total, federation.vector("a") * np.uint32(2))
    with pytest.raises(AssertionError, match="fewer than k silos"):
        check_chain(federation)


# --- another roster ----------------------------------------------------------------------------------------


def pin(federation: Federation, silos: str) -> None:
    """Let every silo pin a roster of ``silos``, as its operator would."""
    federation.roster = Roster.of({silo: federation.identities[silo].public for silo in silos})
    federation.cohort = Cohort.of(len(silos))
    federation.encoding = plan_sum(3, clip=8.0, cohort=len(silos))
    for silo in silos:
        federation.silos[silo].roster = federation.roster
        federation.silos[silo].restart()


def joined_by_a_silo() -> Federation:
    """Open a sum of five, then one of the same five and a newcomer."""
    federation = Federation(6, colluders=COLLUDER)
    liar = Liar(federation)
    pin(federation, "abcde")
    assert opened(liar, "abcde")
    pin(federation, "abcdef")
    opened(liar, "abcdef", job="larger")
    return federation


def check_newcomer(federation: Federation) -> None:
    recovered = federation.knowledge.vector_of("f")
    assert recovered is None or not np.array_equal(recovered, federation.vector("f")), "the newcomer's vector"
    for silo in "abcd":
        [error] = federation.silos[silo].errors
        assert isinstance(error, LockRefused)
        assert "it can finish without: f" in str(error)


def test_a_newcomer_is_not_the_difference() -> None:
    check_newcomer(joined_by_a_silo())


def test_a_newcomer_is_not_the_difference_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.survivors.Locks.sign", any_set)
    federation = joined_by_a_silo()
    with pytest.raises(AssertionError, match="the newcomer's vector"):
        check_newcomer(federation)


# --- the difference of a sum and what colluders know -----------------------------------------------------


def test_two_silos_or_all_but_one_colluding() -> None:
    for n in (1, 2):
        with pytest.raises(ParameterError, match=f"n = {n} silos: at least 3"):
            Cohort.of(n)
        with pytest.raises(ParameterError):
            secure_sum({silo: np.zeros(3) for silo in "ab"[:n]}, clip=1.0)
    for n in range(3, 12):
        assert Cohort.of(n, c=n - 2).min_survivors == n
        for c in (n - 1, n):
            with pytest.raises(ParameterError, match=f"c = {c} colluders"):
                Cohort.of(n, c=c)


def test_a_silo_that_assumes_many_colluders_needs_many_silos() -> None:
    """With n - 2 colluders assumed and there, the least that is opened covers two silos."""
    federation = Federation(5, colluders="cde", c=3, policy=Policy(colluders=3))
    liar = Liar(federation)
    assert opened(liar, EVERYBODY)
    for number, survivors in enumerate(("acde", "abcd", "bcde"), start=2):
        assert not opened(liar, survivors, number=number)
    [exposure] = federation.knowledge.exposures()
    assert exposure.silos == {"a", "b"}
    with pytest.raises(PolicyRefused, match="min_silos"):
        Policy(min_silos=6, colluders=3).check(federation.terms(), federation.roster)


# --- the way out -------------------------------------------------------------------------------------------


def test_the_refusal_tells_the_run_who_must_return() -> None:
    """An honest coordinator that lost a silo after an opened sum is told whose return finishes the round."""
    federation = Federation(5)
    liar = Liar(federation)
    assert opened(liar, EVERYBODY)
    coordinator = RoundCoordinator(federation.roster, terms=federation.terms(job="again"), attempts=1)
    with pytest.raises(RoundAborted):
        run_round(coordinator, federation.silos, dropouts={VICTIM: "MaskedInput"})
    assert {silo: why for silo, why in coordinator.losses.items() if silo != VICTIM} == dict.fromkeys(
        WITHOUT, f"refused: lock (needs {VICTIM})"
    )
    assert federation.silos["a"].errors[-1].silos == (VICTIM,)  # type: ignore[attr-defined]

    coordinator = RoundCoordinator(federation.roster, terms=federation.terms(job="yet-again"))
    aggregate, _ = run_round(coordinator, federation.silos)
    assert aggregate.survivors == tuple(EVERYBODY)
    assert np.array_equal(aggregate.total, federation.total(EVERYBODY))


def test_a_refusal_carries_names_and_nothing_else() -> None:
    federation = attack("a new job", EVERYBODY, WITHOUT)
    liar = Liar(federation)
    terms = federation.terms(job="third")
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.until_masked()
    attempt.announce_survivors(WITHOUT)
    replies = [None if reply is None else wire.decode_from_silo(*reply) for _, _, reply in liar.sent]
    assert [reply for reply in replies if isinstance(reply, Refused)] == [Refused("lock", (VICTIM,), 1)] * 4
