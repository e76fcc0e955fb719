"""Which noise for how many rows and silos, and what it does to the model: figures to choose a mode by.

The three modes differ in who adds how much. Under local DP-SGD each silo adds all of the noise to its own
steps. Under distributed noise each adds a share that only the sum makes whole, so it is added once.

Figures are of the mean update of one round, as an average gradient: its noise is compared with the longest
that it can be, the clip norm. What a model loses depends on the data too, which nobody here has seen.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from secagg.cohort import Cohort
from secagg.errors import ParameterError
from secagg.explanation import explained
from secagg.privacy import accountant
from secagg.privacy.calibration import Privacy
from secagg.privacy.events import Release, Unit
from secagg.ranges import positive, whole
from secagg.report import hanging

ModeName: TypeAlias = Literal["local", "record", "silo"]

SHOWN_PARAMETERS = 1_000_000
"""Of a model when nobody says how many it has."""

USUAL_DELTA = 1e-5
"""At the most, when nobody says one; for many rows it is a tenth of 1 over the rows of a silo."""

_BATCHES = 20
"""A step takes so small a part of the rows when nobody says how many."""

_LABELS: dict[ModeName, str] = {
    "local": "local: DP-SGD hides a record from all; each silo adds all the noise",
    "record": "record: distributed noise hides a record; the silos add it once",
    "silo": "silo: distributed noise hides all that one silo gives",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a run is like, as far as its noise depends on it.

    Args:
        rows: of each silo, at least 1.
        silos: n, at least 3.
        rounds: mean updates, at least 1.
        epsilon: for all rounds together, above 0.
        delta: as of ``Privacy``.
        parameters: entries of the model, at least 1.
        clip: L2 norm to which a contribution is cut: the gradient of a record, or the update of a silo.
        batch: rows that a silo expects in a step, 1 to ``rows``.
        colluders: c; None for max(1, floor((n - 1) / 3)).

    Raises:
        ParameterError: a value is outside its range.
    """

    rows: int
    silos: int
    rounds: int
    epsilon: float
    delta: float
    parameters: int
    clip: float
    batch: int
    colluders: int | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "rounds", "parameters", "batch"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=1))
        object.__setattr__(self, "clip", positive("clip", self.clip))
        if self.batch > self.rows:
            raise ParameterError(f"batch is {self.batch:,}, must be at most the {self.rows:,} rows of a silo")
        _ = self.cohort, self.privacy  # Refuse what is out of their ranges.

    @property
    def cohort(self) -> Cohort:
        """Who may be lost and who may collude."""
        return Cohort.of(self.silos, c=self.colluders)

    @property
    def privacy(self) -> Privacy:
        """What may be spent."""
        return Privacy(self.epsilon, self.delta, self.rounds)

    @property
    def honest(self) -> int:
        """Shares of noise that are in every opened sum and that no colluder can take off."""
        return self.cohort.min_survivors - self.cohort.c


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One way to add the noise.

    Attributes:
        name: where the noise is; ``_LABELS`` says it in words.
        noise_multiplier: that keeps to the budget.
        sampling_rate: of a record in a step.
        steps: of each silo in a round.
        averaged: contributions behind the mean update of a round, of records or of silos.
        noise: standard deviation of each entry of the mean update.
        relative: norm of that noise over the clip norm.
    """

    name: ModeName
    noise_multiplier: float
    sampling_rate: float
    steps: int
    averaged: int
    noise: float
    relative: float

    @property
    def unit(self) -> Unit:
        """Whom the noise hides."""
        return "silo" if self.name == "silo" else "record"

    @property
    def fewer(self) -> float:
        """As if of so many contributions there were only one.

        A mean of k contributions of the length of the clip, in directions of chance, is off by clip/sqrt(k).
        The noise adds to that error what taking fewer of them would add.
        """
        return 1 + self.relative**2 * self.averaged


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The modes side by side, and what would change them.

    Attributes:
        case: what was asked.
        modes: local, record and silo.
        reached: epsilon of each, if as few silos answer as may and as many collude as may.
        at_best: epsilon of each, if all answer and nobody colludes; of local the same.
        changes: what else could be chosen, with ``Mode.relative`` of each mode then.
    """

    case: Case
    modes: tuple[Mode, ...]
    reached: tuple[float, ...]
    at_best: tuple[float, ...]
    changes: tuple[tuple[str, tuple[float, ...]], ...]

    def __str__(self) -> str:
        return self.text()

    def text(self, *, width: int = 80) -> str:
        """Return the plan as plain text, at most ``width`` (72 or more) characters a line."""
        case = self.case
        who = f"{_many(case.silos, 'silo')} of {_many(case.rows, 'row')}"
        what = (
            f"{_many(case.rounds, 'round')}, {_many(case.parameters, 'parameter')}, clip norm {case.clip:g}"
        )
        lines = textwrap.wrap(f"{who}, {what}", width, subsequent_indent="  ")
        for label, sentence in self._terms():
            lines += hanging(label, sentence, width=width)
        for mode, reached, at_best in zip(self.modes, self.reached, self.at_best, strict=True):
            lines += ["", _LABELS[mode.name]]
            for label, sentence in self._facts(mode, reached, at_best):
                lines += hanging(label, sentence, width=width)
        row = "  {:<34}{:>12}{:>12}{:>12}".format
        lines += ["", row("what changes it: noise over clip", *(mode.name for mode in self.modes))]
        as_asked = tuple(mode.relative for mode in self.modes)
        for label, figures in (("as above", as_asked), *self.changes):
            lines.append(row(label, *(f"{figure:.3g}" for figure in figures)))
        return "\n".join(lines)

    def _terms(self) -> Iterator[tuple[str, str]]:
        case, cohort = self.case, self.case.cohort
        spent = f"epsilon {case.epsilon:g} at delta {case.delta:.3g}, for all rounds together"
        yield "privacy", f"{spent}; neighbouring data: one record, or one silo, is replaced by an empty one"
        opened = f"a sum is opened with {cohort.min_survivors} or more, and {_many(cohort.c, 'silo')}"
        yield "silos", f"{opened} may collude: {_many(case.honest, 'honest share')} must be noise enough"
        yield "noise", "of the mean update of a round; over clip: its length over that of the longest update"

    def _facts(self, mode: Mode, reached: float, at_best: float) -> Iterator[tuple[str, str]]:
        case, cohort = self.case, self.case.cohort
        match mode.name:
            case "local":
                what = f"{_many(mode.steps, 'step')} a round at each silo, of {_many(case.batch, 'row')}"
            case "record":
                what = f"one step a round over {_many(mode.averaged, 'row')} of all silos together"
            case _:
                what = "one sum of updates a round"
        if mode.unit == "record":
            what += f" (sampling rate {mode.sampling_rate:.3g})"
        yield "multiplier", f"{mode.noise_multiplier:.4g}; {what}"
        if mode.name == "local":
            yield "epsilon", f"{reached:.3g}, whoever colludes"
        else:
            yield (
                "epsilon",
                (
                    f"{reached:.3g} if {_many(cohort.min_survivors, 'silo')} answer and "
                    f"{cohort.c} of them may collude; {at_best:.3g} if all answer and nobody does"
                ),
            )
        yield "noise", f"{mode.noise:.2g} in each entry, {mode.relative:.3g} over clip"
        noun = "silo" if mode.name == "silo" else "row"
        left = mode.averaged / mode.fewer
        yield (
            "as if",
            (
                f"{_factor(mode.fewer)} times fewer {noun}s and no noise: "
                + (f"{left:,.0f}" if left >= 1 else "less than 1")
                + f" of {_many(mode.averaged, noun)}"
            ),
        )


@explained()
def plan(
    rows: int,
    silos: int,
    rounds: int,
    epsilon: float,
    *,
    delta: float | None = None,
    parameters: int = SHOWN_PARAMETERS,
    clip: float = 1.0,
    batch: int | None = None,
    colluders: int | None = None,
) -> Plan:
    """Return what each way to add noise would do to a run.

    Args:
        rows: of each silo, at least 1.
        silos: n, at least 3.
        rounds: mean updates that share ``epsilon``, at least 1.
        epsilon: above 0.
        delta: None for a tenth of 1 / ``rows``, at most 1e-5.
        parameters: entries of the model, at least 1.
        clip: L2 norm to which the gradient of a record, or the update of a silo, is cut.
        batch: rows that a silo expects in a step; None for a twentieth of ``rows``.
        colluders: c; None for max(1, floor((n - 1) / 3)).

    Returns:
        Printed, it is a page.

    Raises:
        ParameterError: a value is outside its range.
        MissingExtra: ``batch`` is below ``rows``, and ``dp_accounting`` is not installed.
    """
    rows = whole("rows", rows, least=1)
    case = Case(
        rows=rows,
        silos=silos,
        rounds=rounds,
        epsilon=epsilon,
        delta=min(USUAL_DELTA, 0.1 / rows) if delta is None else accountant.check_delta(delta),
        parameters=parameters,
        clip=clip,
        batch=max(1, rows // _BATCHES) if batch is None else batch,
        colluders=colluders,
    )
    modes = _modes(case, rough=False)
    changes = tuple(
        (label, tuple(mode.relative for mode in _modes(other, rough=other.privacy != case.privacy)))
        for label, other in _others(case)
    )
    more = math.sqrt(case.silos / case.honest)
    reached = tuple(_spent(case, mode) for mode in modes)
    at_best = tuple(
        _spent(
            case,
            replace(mode, noise_multiplier=(1 if mode.name == "local" else more) * mode.noise_multiplier),
        )
        for mode in modes
    )
    return Plan(case=case, modes=modes, reached=reached, at_best=at_best, changes=changes)


def _modes(case: Case, *, rough: bool) -> tuple[Mode, ...]:
    privacy = case.privacy
    calibrated = privacy.rough_noise_multiplier if rough else privacy.noise_multiplier
    rate = case.batch / case.rows
    steps = -(-case.rows // case.batch)
    # What the sum over all silos carries more than the honest shares that are counted on.
    more = math.sqrt(case.silos / case.honest)
    in_a_step = case.silos * case.batch
    # Of the mean update, in units of noise multiplier times clip. Where each silo adds all the noise, the
    # silos average it out; and as an average gradient, an update of several steps does so too.
    spread: dict[ModeName, float] = {
        "local": 1 / (case.batch * math.sqrt(case.silos * steps)),
        "record": more / in_a_step,
        "silo": more / case.silos,
    }
    multipliers: dict[ModeName, float] = {
        "local": calibrated(sampling_rate=rate, steps=steps),
        "record": calibrated(sampling_rate=rate),
        "silo": calibrated(unit="silo"),
    }
    averaged: dict[ModeName, int] = {"local": in_a_step * steps, "record": in_a_step, "silo": case.silos}
    return tuple(
        Mode(
            name=name,
            noise_multiplier=multiplier,
            sampling_rate=1.0 if name == "silo" else rate,
            steps=steps if name == "local" else 1,
            averaged=averaged[name],
            noise=multiplier * spread[name] * case.clip,
            relative=multiplier * spread[name] * math.sqrt(case.parameters),
        )
        for name, multiplier in multipliers.items()
    )


def _spent(case: Case, mode: Mode) -> float:
    releases = Release(mode.unit, mode.noise_multiplier, mode.sampling_rate, case.rounds * mode.steps)
    return accountant.epsilon([releases], delta=case.delta, unit=mode.unit)


def _others(case: Case) -> Iterator[tuple[str, Case]]:
    yield "twice the silos", replace(case, silos=2 * case.silos)
    if case.rounds > 1:
        yield "half the rounds", replace(case, rounds=case.rounds // 2)
    yield f"epsilon {2 * case.epsilon:g}", replace(case, epsilon=2 * case.epsilon)
    if case.batch < case.rows:
        yield "all rows in each step", replace(case, batch=case.rows)
    if case.parameters >= 10:
        yield "a tenth of the parameters", replace(case, parameters=case.parameters // 10)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _factor(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"
