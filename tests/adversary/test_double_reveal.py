"""Attack ``double_reveal``: get t shares of a silo's seed and t of its mask key in one session.

With both, its vector is in clear. The coordinator asks for one set, for two, for another set at every silo,
again after an answer, with lists that name a silo twice; it splits the lists of who dealt, kills and restarts
silos at any step, retries and collects voids; c silos tell it everything and sign whatever it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from secagg import wire
from secagg.masking.silo import released
from secagg.messages import FromCoordinator, FromSilo, Unmasking, UnmaskingRequested
from secagg.names import SiloId
from secagg.records import Released
from secagg.session import Step
from tests.adversary.harness import Attempt, Federation, Liar, frozen, named
from tests.adversary.mutants import any_set, forgetful
from tests.counts import count

SCHEDULES = {
    n: count(30, full=full) for n, full in {3: 3200, 4: 2400, 5: 1800, 6: 1200, 7: 800, 8: 600}.items()
}
"""For each n; 10,000 together. A schedule of eight silos takes as long as six of three."""


class Killing(Liar):
    """A coordinator under which any silo may die at any message, and come back from its journal."""

    def __init__(self, federation: Federation, rng: np.random.Generator, rate: float) -> None:
        super().__init__(federation)
        self.rng = rng
        self.rate = rate

    def tell(self, silo: SiloId, message: FromCoordinator) -> FromSilo | None:
        if self.rng.random() >= self.rate:
            return super().tell(silo, message)
        host = self.federation.silos[silo]
        if self.rng.random() < 0.3:  # It dies after its reply left.
            reply = super().tell(silo, message)
            host.restart()
            return reply
        host.crash(frozen(wire.encode(message)), synced=int(self.rng.integers(0, 3)))
        return None


class Schedule:
    """One random schedule of lies."""

    def __init__(self, n: int, seed: int) -> None:
        self.rng = np.random.default_rng([n, seed])
        names = [chr(ord("a") + slot) for slot in range(n)]
        c = max(1, (n - 1) // 3)
        colluders = [str(silo) for silo in self.rng.permutation(names)[:c]]
        self.federation = Federation(n, colluders=colluders, seed=seed)
        self.liar = Killing(self.federation, self.rng, rate=float(self.rng.choice([0, 0, 0.02, 0.1])))
        self.voids: tuple[Any, ...] = ()

    def run(self) -> Federation:
        terms = self.federation.terms()
        for number in range(1, int(self.rng.integers(2, 4))):
            self.liar.train(terms)
            attempt = Attempt(self.liar, terms, number, voids=self.voids)
            attempt.advertise()
            attempt.announce_keys()
            if len(attempt.dealt) < self.federation.cohort.t:
                continue
            lists = self.lists(attempt)
            for silo in self.shuffled(lists):
                attempt.announce_shares(lists[silo], to=[silo])
            sets = self.sets(attempt)
            for silo in self.shuffled(sets):
                if silo in lists:
                    attempt.announce_survivors(sets[silo], members=lists[silo], to=[silo])
            for members in set(lists.values()):
                for survivors in set(sets.values()):
                    attempt.collude(survivors, members=members)
            for _ in range(int(self.rng.integers(1, 3))):
                self.ask(attempt, lists, sets)
            rounds = sorted({attempt.round_id(members) for members in lists.values()})
            self.voids += self.liar.void(rounds, self.some(self.federation.roster.silos, least=0))
            self.ask(attempt, lists, sets)
            if self.rng.random() < 0.2:
                for host in self.federation.silos.values():
                    host.restart()
        return self.federation

    def lists(self, attempt: Attempt) -> dict[SiloId, tuple[SiloId, ...]]:
        """Who dealt, as each silo is told: the truth to all, or to each something else."""
        dealers = tuple(attempt.dealt)
        if self.rng.random() < 0.7:
            members = self.some(dealers) if self.rng.random() < 0.5 else dealers
            return dict.fromkeys(members, members)
        return {silo: tuple({silo, *self.some(dealers)}) for silo in dealers}

    def sets(self, attempt: Attempt) -> dict[SiloId, tuple[SiloId, ...]]:
        """The survivors, as each silo is told."""
        dealers = tuple(attempt.dealt)
        victim = str(self.rng.choice([s for s in dealers if s in self.federation.honest]))
        without = tuple(silo for silo in dealers if silo != victim)
        match int(self.rng.integers(0, 4)):
            case 0:  # The victim is late: its vector is there, and everybody is told that it is lost.
                return dict.fromkeys(dealers, without)
            case 1:  # One set.
                return dict.fromkeys(dealers, self.some(dealers))
            case 2:  # One half is told that the victim lives, the other that it does not.
                order = self.shuffled(silo for silo in without if silo in self.federation.honest)
                lost = order[: len(order) - (len(order) + 1) // 2 + 1]
                return {silo: without if silo in lost else dealers for silo in dealers}
            case _:  # Something else to everybody.
                return {silo: tuple({silo, *self.some(dealers)}) for silo in dealers}

    def ask(self, attempt: Attempt, lists: Any, sets: Any) -> None:
        """Ask every silo to unmask its set, then some to unmask another one."""
        for silo in self.shuffled(sets):
            if silo not in lists:
                continue
            for survivors in (sets[silo], sets[str(self.rng.choice(list(sets)))]):
                attempt.request(survivors, members=lists[silo], to=[silo])
            if self.rng.random() < 0.2:
                self.ask_twice_in_one(attempt, lists[silo], sets[silo], silo)

    def ask_twice_in_one(
        self, attempt: Attempt, members: tuple[SiloId, ...], survivors: tuple[SiloId, ...], silo: SiloId
    ) -> None:
        """Name silos twice, as if one were two."""
        round_id, ordered = attempt.round_id(members), self.federation.roster.ordered(frozenset(survivors))
        signatures = tuple(attempt.signatures[round_id, ordered].items())
        self.liar.tell(silo, UnmaskingRequested(round_id, (*ordered, *ordered[:1]), signatures * 2))

    def some(self, silos: Iterable[SiloId], *, least: int | None = None) -> tuple[SiloId, ...]:
        """A random part of ``silos``, large enough to be accepted unless ``least`` says otherwise."""
        chosen = self.shuffled(silos)
        least = self.federation.cohort.min_survivors if least is None else least
        return tuple(chosen[: int(self.rng.integers(min(least, len(chosen)), len(chosen) + 1))])

    def shuffled(self, silos: Iterable[SiloId]) -> list[SiloId]:
        return [str(silo) for silo in self.rng.permutation(sorted(silos))]


def attack(n: int, seeds: Iterable[int]) -> int:
    """Run schedules and return in how many a sum was opened; complain about a silo that was laid bare."""
    opened = 0
    for seed in seeds:
        federation = Schedule(n, seed).run()
        knowledge, cohort = federation.knowledge, federation.cohort
        assert not knowledge.double_reveals(cohort.t), f"both secrets of a silo (seed {seed})"
        exposed = knowledge.smallest(below=cohort.min_survivors - cohort.c)
        assert exposed is None, f"fewer than k honest silos are in clear (seed {seed})"
        assert not named(federation), f"a silo is blamed for what the coordinator did (seed {seed})"
        opened += bool(knowledge.exposures())
    return opened


@pytest.mark.parametrize(
    "n", [n if n in {3, 5, 8} else pytest.param(n, marks=pytest.mark.full) for n in SCHEDULES]
)
def test_double_reveal(n: int) -> None:
    # The attacks are not refused wholesale: many of them open the sum that may be opened.
    assert attack(n, range(SCHEDULES[n])) > SCHEDULES[n] // 10


def answers_any_set(self: Any, state: Any, requested: UnmaskingRequested) -> Any:
    """Unmask whatever set is named, as often as one is."""
    openings = tuple(
        (peer, released(pair, alive=peer in requested.survivors)) for peer, pair in state.pairs.items()
    )
    return Step((Released(state.round_id),), Unmasking(state.round_id, openings))


def majority(n: int, c: int) -> int:
    """The largest threshold with which two sets may have t signatures each."""
    return (n + c) // 2


@pytest.mark.parametrize(
    ("defences", "mutant", "succeeds"),
    [
        (["secagg.masking.silo.MaskingSilo._unmask"], answers_any_set, "both secrets"),
        (["secagg.cohort.least_threshold", "secagg.policy.least_threshold"], majority, "both secrets"),
        (
            ["secagg.masking.silo.released"],
            lambda pair, *, alive: pair.mask if alive else pair.seed,
            "fewer than k honest silos",
        ),
        # One session is safe without the lock and the journal; two sessions of one base are not.
        (["secagg.survivors.Locks.sign"], any_set, "fewer than k honest silos"),
        (["secagg.survivors.Locks.__init__"], forgetful, "fewer than k honest silos"),
    ],
)
def test_double_reveal_mutant(
    monkeypatch: pytest.MonkeyPatch, defences: list[str], mutant: Callable[..., Any], succeeds: str
) -> None:
    for defence in defences:
        monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=succeeds):
        attack(5, range(400))
