"""Attack ``dp_dropout``: take noise out of an opened sum by losing silos, by colluding, by asking again.

Shares of noise are of silos: those that are lost take theirs with them, and c that collude tell theirs. What
is left in the sum over the fewest silos must carry all that the epsilon rests on. And a sum that is opened in
one attempt after another must have the same noise each time, or its mean would have less.

Updates are zero, so that the opened sum is nothing but noise. Of right noise an attack "succeeds" with a
probability below ``FALSE_ALARM``; of two thirds of the variance that is needed it fails with less than that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from secagg.cohort import Cohort
from secagg.names import IntegerVector, SiloId
from secagg.privacy import charge, planning
from secagg.privacy.accountant import epsilon
from secagg.privacy.calibration import Privacy
from secagg.privacy.charge import events_of, sensitivity
from secagg.privacy.events import Release
from secagg.privacy.params import DistributedDP, PrivacyMode
from secagg.privacy.spent import Spent
from secagg.rounds.silo import Participant
from secagg.session import Step
from secagg.terms import RecordNoise, SiloNoise, Terms, training_digest
from tests.counts import FULL
from tests.privacy.noised import Noised, ledger

FALSE_ALARM = 1e-9
LENGTH = 4_000
"""Entries: the variance is measured with a standard deviation of 2.2 %."""

TARGET = Privacy(epsilon=2.0, delta=1e-5, rounds=1)
SILO = DistributedDP(TARGET)
RECORD = DistributedDP(TARGET, unit="record", sampling_rate=1.0, batch_size=8)


SCHEDULES = [
    (n, survivors)
    for n in (range(3, 9) if FULL else (3, 6))
    for survivors in range(Cohort.of(n).min_survivors, n + 1)
]
"""Numbers of silos, and of those that are in the sum."""


def left(federation: Noised, survivors: int) -> tuple[NDArray[np.int64], tuple[SiloId, ...]]:
    """Lose silos; return the opened sum without the shares of c colluders, and who is in it."""
    silos = federation.roster.silos
    aggregate = federation.run(dict.fromkeys(silos[survivors:], "MaskedInput"))
    assert aggregate.survivors == silos[:survivors]
    assert federation.cohort is not None
    colluders = silos[: federation.cohort.c]
    told = sum(federation.signed(federation.vector(silo)) for silo in colluders)
    return federation.signed(aggregate.total) - told, aggregate.survivors


def variance_of(terms: Terms, survivors: int | None) -> float:
    """Return the variance, in squared steps, that the account of so many survivors rests on."""
    noise, segment = terms.privacy, terms.encoding.segments[0]
    assert isinstance(noise, SiloNoise | RecordNoise)
    (event,) = events_of(terms, survivors=survivors)
    assert isinstance(event, Release)
    steps = sensitivity(
        event.unit, noise.l2_clip_norm, fraction_bits=segment.fraction_bits, length=segment.length
    )
    return (event.noise_multiplier * steps) ** 2


def check_variance(noise: NDArray[np.int64], needed: float) -> None:
    square = float(np.sum(noise.astype(np.float64) ** 2))
    least = chi2.ppf(FALSE_ALARM, noise.size) * needed
    assert square >= least, "the opened sum has less noise than its epsilon rests on"
    # The control: the same bound, for half as much noise again, is not met by this.
    assert chi2.ppf(FALSE_ALARM, noise.size) > 2 / 3 * chi2.ppf(1 - FALSE_ALARM, noise.size)


def attack(mode: DistributedDP, n: int, survivors: int) -> None:
    federation = Noised([np.zeros(LENGTH)] * n, mode)
    noise, silos = left(federation, survivors)
    # What was planned for, reckoned here from nothing but the target, and what is said of this very sum.
    segment = federation.terms.encoding.segments[0]
    steps = sensitivity(mode.unit, 1.0, fraction_bits=segment.fraction_bits, length=LENGTH)
    multiplier = TARGET.noise_multiplier(unit=mode.unit)
    check_variance(noise, (multiplier * steps) ** 2)
    check_variance(noise, variance_of(federation.terms, len(silos)))

    spent = Spent.of(federation.terms, len(silos), None)
    assert spent is not None
    assert spent.epsilon <= TARGET.epsilon
    charged = [ledger.spent(mode.unit) for ledger in federation.ledgers.values()]
    assert min(charged) >= spent.epsilon * (1 - 1e-6)


@pytest.mark.parametrize(("n", "survivors"), SCHEDULES)
@pytest.mark.parametrize("mode", [SILO, RECORD], ids=lambda mode: mode.unit)
def test_dp_dropout(mode: DistributedDP, n: int, survivors: int) -> None:
    attack(mode, n, survivors)


def for_all(mode: DistributedDP, multiplier: float, *, length: int, cohort: Cohort, bits: int) -> Any:
    """``planning._noise`` that counts on every silo's share, whoever is lost."""
    return _sized(mode, multiplier, length, bits, cohort.n - cohort.c)


def for_colluders_too(
    mode: DistributedDP, multiplier: float, *, length: int, cohort: Cohort, bits: int
) -> Any:
    """``planning._noise`` that counts on the shares that colluders tell."""
    return _sized(mode, multiplier, length, bits, cohort.min_survivors)


def _sized(mode: DistributedDP, multiplier: float, length: int, bits: int, shares: int) -> Any:
    cohort = Cohort(n=shares + 2, c=1, t=shares + 1)
    assert cohort.min_survivors - cohort.c == shares
    return _noise(mode, multiplier, length=length, cohort=cohort, bits=bits)


_noise = planning._noise


def with_colluders(terms: Terms, noise: Any, unit: Any, survivors: int | None) -> tuple[float, float]:
    """``charge._of_sum`` that takes the shares of colluders for noise."""
    cohort = terms.scheme.cohort  # type: ignore[union-attr]
    everybody = cohort.min_survivors if survivors is None else survivors
    return _of_sum(terms, noise, unit, everybody + cohort.c)


_of_sum = charge._of_sum


@pytest.mark.parametrize(
    ("defence", "mutant", "n", "survivors"),
    [
        ("secagg.privacy.planning._noise", for_all, 6, 4),
        ("secagg.privacy.planning._noise", for_colluders_too, 4, 3),
        ("secagg.privacy.planning._noise", for_colluders_too, 8, 6),
        ("secagg.privacy.charge._of_sum", with_colluders, 4, 3),
        ("secagg.privacy.charge._of_sum", with_colluders, 8, 6),
    ],
)
@pytest.mark.parametrize("mode", [SILO, RECORD], ids=lambda mode: mode.unit)
def test_dp_dropout_mutant(
    monkeypatch: pytest.MonkeyPatch, mode: DistributedDP, defence: str, mutant: Any, n: int, survivors: int
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="less noise than its epsilon rests on"):
        attack(mode, n, survivors)


# --- asked again --------------------------------------------------------------------------------------------

TIMES = 6


def averaged(mode: PrivacyMode, *, lost: SiloId | None = None) -> tuple[Noised, NDArray[Any]]:
    """Open the sum of one set in attempt after attempt, with crashes between them, and return the mean."""
    federation = Noised([np.zeros(LENGTH)] * 4, mode)
    totals, memory = [], None
    for _ in range(TIMES):
        aggregate = federation.run({} if lost is None else {lost: "MaskedInput"}, memory=memory)
        memory = federation.coordinator.memory
        totals.append(federation.signed(aggregate.total))
        for silo in federation.silos.values():
            silo.restart()
    return federation, np.mean(totals, axis=0)


def check_averaged(mode: PrivacyMode) -> None:
    federation, mean = averaged(mode)
    needed = variance_of(federation.terms, None)
    square = float(np.sum(mean**2))
    assert square >= chi2.ppf(FALSE_ALARM, mean.size) * needed, "the mean of attempts has less noise"
    assert [len(ledger.entries) for ledger in federation.ledgers.values()] == [1] * 4


@pytest.mark.parametrize("mode", [SILO, RECORD], ids=lambda mode: mode.unit)
def test_attempts_have_the_same_noise(mode: DistributedDP) -> None:
    check_averaged(mode)


def drawn_anew(self: Any, terms: Terms) -> Step[Any, Any]:
    """``Participant._ready`` that trains and draws at each attempt, and is charged for the first."""
    digest, kept = training_digest(terms), self._spending._ledger
    if self._cache.pop(digest, None) is not None:
        self._spending._ledger = ledger()
    reply = _ready(self, terms)
    self._spending._ledger = kept
    return reply


_ready = Participant._ready


@pytest.mark.parametrize("mode", [SILO, RECORD], ids=lambda mode: mode.unit)
def test_attempts_have_the_same_noise_mutant(monkeypatch: pytest.MonkeyPatch, mode: DistributedDP) -> None:
    monkeypatch.setattr(Participant, "_ready", drawn_anew)
    with pytest.raises(AssertionError, match="the mean of attempts has less noise"):
        check_averaged(mode)


# --- another release ----------------------------------------------------------------------------------------


def vectors_of(federation: Noised, release: int) -> dict[SiloId, IntegerVector]:
    federation.run(release=release)
    return {silo: federation.vector(silo).copy() for silo in federation.roster.silos}


def test_another_release_has_noise_of_its_own_and_is_charged() -> None:
    federation = Noised([np.zeros(LENGTH)] * 4, SILO)
    first, second = (vectors_of(federation, release) for release in (1, 2))
    for silo, book in federation.ledgers.items():
        apart = federation.signed(first[silo]) - federation.signed(second[silo])
        assert isinstance(federation.terms.privacy, SiloNoise)
        needed = 2 * federation.terms.privacy.share**2
        low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], LENGTH) * needed
        assert low < float(np.sum(apart.astype(np.float64) ** 2)) < high
        assert [(entry.round, entry.release) for entry in book.entries] == [(1, 1), (1, 2)]
        once = Release("silo", book.entries[0].events[0].noise_multiplier, count=2)  # type: ignore[union-attr]
        assert book.spent("silo") == pytest.approx(epsilon([once], delta=1e-5, unit="silo"), rel=1e-6)
    assert math.isfinite(federation.ledgers["north"].spent("silo"))
