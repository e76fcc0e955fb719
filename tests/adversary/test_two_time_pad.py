"""Attack ``two_time_pad``: get two vectors under one mask, whose difference is then in clear.

Silos are killed and restarted at each step, come back with other data and an empty cache, and are asked
again: for the same attempt, the next one, another round, another job. As if that were not enough, the
randomness of every silo starts again where it started before, as that of a machine restored from a snapshot
does: then the keys are the same, and only the journal and the round id keep the streams apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg import wire
from secagg.hazmat.framing import digest
from secagg.names import IntegerVector, RandomSource, SiloId
from secagg.terms import Terms, training_digest
from tests.adversary.harness import Attempt, Federation, Liar, frozen, named

STEPS = ("trained", "advertised", "shared", "masked", "signed", "released")


@dataclass
class Pads:
    """A federation whose silos have other data after every crash, and what they sent."""

    federation: Federation
    liar: Liar
    crashes: int = 0
    sent: dict[SiloId, list[tuple[NDArray[Any], NDArray[Any]]]] = field(default_factory=dict)

    @classmethod
    def of(cls, randomness: Callable[[SiloId], RandomSource]) -> Pads:
        federation = Federation(4)
        pads = cls(federation, Liar(federation))
        for silo, host in federation.silos.items():
            host.work.data = pads.data_of(silo)
            host.random = lambda silo=silo: randomness(silo)  # type: ignore[misc]
        pads.kill(federation.roster.silos)
        return pads

    def data_of(self, silo: SiloId) -> Callable[[Terms], IntegerVector]:
        return lambda _: self.federation.vector(silo, digest("data", self.crashes))

    def kill(self, silos: Iterable[SiloId]) -> None:
        """Restart ``silos`` from their journals, with other data and nothing cached."""
        self.crashes += 1
        for silo in silos:
            self.federation.silos[silo].cache.clear()
            self.federation.silos[silo].restart()

    def run(self, terms: Terms, number: int, until: str) -> None:
        """Run an attempt up to a step."""
        everybody = self.federation.roster.silos
        self.liar.train(terms)
        attempt = Attempt(self.liar, terms, number)
        steps: Mapping[str, Callable[[], Any]] = {
            "advertised": attempt.advertise,
            "shared": attempt.announce_keys,
            "masked": lambda: self.collect(attempt),
            "signed": lambda: attempt.announce_survivors(everybody),
            "released": lambda: attempt.request(everybody),
        }
        for step in STEPS[1 : STEPS.index(until) + 1]:
            steps[step]()

    def collect(self, attempt: Attempt) -> None:
        """Note each masked vector beside the vector in it."""
        if len(attempt.dealt) < self.federation.cohort.t:
            return
        for silo, reply in attempt.announce_shares().items():
            vector = self.federation.silos[silo].cache[training_digest(attempt.terms)]
            masked = reply.vector.array()[:-1].copy()
            self.sent.setdefault(silo, []).append((masked, np.array(vector)))


def attack(randomness: Callable[[SiloId], RandomSource]) -> Pads:
    """Kill everybody, or one silo, at each step, and ask again."""
    pads = Pads.of(randomness)
    everybody, terms = pads.federation.roster.silos, pads.federation.terms()
    number = 0
    for step in STEPS:
        for victims in (everybody, everybody[1:2]):
            number += 1
            pads.kill(everybody)
            pads.run(terms, number, step)
            pads.kill(victims)
            pads.run(terms, number, "masked")  # the same attempt
            pads.kill(victims)
            pads.run(pads.federation.terms(round=2), number, "masked")  # another round
            pads.kill(victims)
            pads.run(pads.federation.terms(job="another"), number, "masked")  # another job
            pads.kill(victims)
    return pads


def check(pads: Pads) -> None:
    for silo, sent in pads.sent.items():
        assert len(sent) > 2 * len(STEPS), f"{silo} sent too little for this test to say anything"
        masks = [masked - vector for masked, vector in sent]
        for (i, first), (j, second) in combinations(enumerate(sent), 2):
            assert np.any(first[0] - second[0] != first[1] - second[1]), f"{silo}: two vectors, one mask"
            assert np.any(masks[i] != masks[j])
        assert any(np.any(first[1] != second[1]) for first, second in combinations(sent, 2))
    assert not named(pads.federation)


def restored_from_a_snapshot(silo: SiloId) -> RandomSource:
    """The same bytes after every restart."""
    return np.random.default_rng(ord(silo)).bytes


@pytest.mark.parametrize("randomness", [lambda _: os.urandom, restored_from_a_snapshot])
def test_two_time_pad(randomness: Callable[[SiloId], RandomSource]) -> None:
    check(attack(randomness))


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.survivors.Locks.join", lambda _, record: record),
        ("secagg.masking.transcript.round_id", lambda *_: bytes(32)),
    ],
)
def test_two_time_pad_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(defence, mutant)
    pads = attack(restored_from_a_snapshot)
    with pytest.raises(AssertionError, match="two vectors, one mask"):
        check(pads)


def test_a_crash_at_any_write_sends_nothing_twice() -> None:
    """Whatever part of its records a silo synced before it died, the next reply is under another mask."""
    for synced in (0, 1, 2):
        pads = Pads.of(restored_from_a_snapshot)
        federation, liar, terms = pads.federation, pads.liar, pads.federation.terms()
        liar.train(terms)
        attempt = Attempt(liar, terms)
        attempt.advertise(["a", "c", "d"])
        federation.silos["b"].crash(frozen(wire.encode(attempt.opened)), synced=synced)
        liar.train(terms, ["b"])
        # What was not synced never left, so the attempt may be joined; what was synced bars it.
        assert (attempt.advertise(["b"]) == {}) == (synced > 0)
