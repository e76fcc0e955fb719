"""Attack ``void_chain``: have one set signed in several rounds, and voids for the later one only.

The first round is opened, so it never gets t voids. The second, of the same set, is voided by everybody.
Whoever counts only the latest round lifts the lock and signs another set; the two sums differ by the victim's
vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from secagg.messages import Void
from secagg.names import SiloId
from secagg.records import LockLifted
from secagg.survivors import LockKey, LockRefused, Locks, sign_void, valid_voids
from tests.adversary.harness import BASE, Attempt, Federation, Liar, named

VICTIM, COLLUDER = "a", "e"
EVERYBODY, WITHOUT = "abcde", "bcde"


def signed(liar: Liar, number: int, *, opened: bool, voids: tuple[Void, ...] = ()) -> bytes:
    """Have everybody sign the whole set in an attempt, and perhaps open it; return the round id."""
    terms = liar.federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms, number, voids=voids)
    attempt.until_masked()
    if opened:
        assert attempt.finish(EVERYBODY).keys() == set(EVERYBODY)
    else:
        assert attempt.announce_survivors(EVERYBODY).keys() == set(EVERYBODY)
    return attempt.round_id()


def other_set(liar: Liar, number: int, voids: tuple[Void, ...]) -> frozenset[SiloId]:
    """Ask for the sum without the victim; return who unmasked it."""
    terms = liar.federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms, number, voids=voids)
    attempt.until_masked()
    return frozenset(attempt.finish(WITHOUT))


def restart(federation: Federation) -> None:
    for host in federation.silos.values():
        host.restart()


def attack(*, retries: int, restarts: bool) -> Federation:
    """Open a set, retry it, void the retries."""
    federation = Federation(5, colluders=COLLUDER)
    liar = Liar(federation)
    between = restart if restarts else lambda _: None
    first = signed(liar, 1, opened=True)
    later = []
    for number in range(2, 2 + retries):
        between(federation)
        later.append(signed(liar, number, opened=False))
    between(federation)
    # A colluder has released the first round and voids it all the same.
    voids = (*liar.void(later), sign_void(federation.identities[COLLUDER], COLLUDER, first))
    voids += liar.void([first])
    between(federation)
    other_set(liar, 2 + retries, voids)
    return federation


def check(federation: Federation) -> None:
    recovered = federation.knowledge.vector_of(VICTIM)
    assert recovered is None or not np.array_equal(recovered, federation.vector(VICTIM)), (
        "the victim's vector"
    )
    assert len(federation.knowledge.exposures()) == 1
    for silo in federation.honest[1:]:
        [error] = federation.silos[silo].errors
        assert isinstance(error, LockRefused)
        assert error.silos == (VICTIM,)
        assert not any(isinstance(record, LockLifted) for record in federation.silos[silo].records)
    assert not named(federation)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("retries", [1, 2, 3])
def test_void_chain(retries: int, restarts: bool) -> None:
    check(attack(retries=retries, restarts=restarts))


def lift_by(condition: Callable[[list[bool]], bool]) -> Callable[..., LockLifted | None]:
    """A lock that looks at some of the rounds in which its set was signed."""

    def lift(
        self: Locks, key: LockKey, voids: Iterable[Void], roster: Any, *, threshold: int
    ) -> LockLifted | None:
        held = self.lock(key)
        voided = valid_voids(voids, roster)
        if held is None or not condition([len(voided.get(r, ())) >= threshold for r in held.rounds]):
            return None
        return LockLifted(key.data_set, key.base)

    return lift


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("mutant", [lift_by(lambda rounds: rounds[-1]), lift_by(any)])
def test_void_chain_mutant(
    monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., Any], restarts: bool
) -> None:
    monkeypatch.setattr("secagg.survivors.Locks.lift", mutant)
    federation = attack(retries=2, restarts=restarts)
    with pytest.raises(AssertionError, match="the victim's vector"):
        check(federation)


# --- nothing was opened ----------------------------------------------------------------------------------


def lifted_with(shown: Callable[[Federation, dict[bytes, tuple[Void, ...]]], Iterable[Void]]) -> Federation:
    """Sign one set in three rounds, open none, and show the voids that ``shown`` picks from all there are."""
    federation = Federation(5, colluders=COLLUDER)
    liar = Liar(federation)
    rounds = [signed(liar, number, opened=False) for number in (1, 2, 3)]
    voids = {r: liar.void([r]) for r in rounds}
    assert all(len(of_round) == federation.roster.n for of_round in voids.values())
    restart(federation)
    assert (len(other_set(liar, 4, tuple(shown(federation, voids)))) > 0) == was_lifted(federation)
    return federation


def was_lifted(federation: Federation) -> bool:
    return any(isinstance(r, LockLifted) for host in federation.silos.values() for r in host.records)


def test_voids_of_every_round_lift() -> None:
    """The way out works: nothing was released, so another set may be opened, and only that one."""
    federation = lifted_with(lambda f, voids: chain(*(v[: f.cohort.t] for v in voids.values())))
    assert was_lifted(federation)
    [exposure] = federation.knowledge.exposures()
    assert exposure.silos == set(WITHOUT) & set(federation.honest)
    assert BASE in {base for _, base in exposure.coefficients}


@pytest.mark.parametrize("rounds", [r for size in range(3) for r in combinations(range(3), size)])
def test_voids_of_some_rounds_do_not(rounds: tuple[int, ...]) -> None:
    federation = lifted_with(lambda _, voids: chain(*(list(voids.values())[i] for i in rounds)))
    assert not was_lifted(federation)


def one_short(federation: Federation, voids: Iterable[Void]) -> list[Void]:
    return list(voids)[: federation.cohort.t - 1]


FORGERIES: dict[str, Callable[[Federation, tuple[Void, ...]], list[Void]]] = {
    "one too few": lambda f, voids: one_short(f, voids),
    "one of them twice": lambda f, voids: one_short(f, voids) + one_short(f, voids)[:1],
    "one in another's name": lambda f, voids: [
        *one_short(f, voids),
        Void("e", voids[0].round_id, voids[0].signature),
    ],
    "one of a stranger": lambda f, voids: [
        *one_short(f, voids),
        sign_void(f.identities[COLLUDER], "z", voids[0].round_id),
    ],
    "one with a changed signature": lambda f, voids: [
        *one_short(f, voids),
        Void("e", voids[0].round_id, bytes(64)),
    ],
    "one of another round": lambda f, voids: [
        *one_short(f, voids),
        sign_void(f.identities[COLLUDER], COLLUDER, bytes(32)),
    ],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_void_counts_once_and_for_its_signer(forgery: str) -> None:
    def shown(federation: Federation, voids: dict[bytes, tuple[Void, ...]]) -> list[Void]:
        first, *rest = voids.values()
        return [*FORGERIES[forgery](federation, first), *chain(*rest)]

    assert not was_lifted(lifted_with(shown))
