"""What a data scientist asks a coordinator for, as it travels: the arguments of ``Federation``, and a name.

It asks; the silos' policies decide. Whoever receives it builds a ``Run`` of it, which checks every value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeAlias

import msgspec

from secagg.errors import ParameterError
from secagg.learning.bounds import Bounds
from secagg.learning.history import Record
from secagg.learning.model import Blocks
from secagg.learning.run import B, Run
from secagg.learning.settings import TrainingPlan, strategy_of
from secagg.learning.strategies import Strategy
from secagg.masking.params import Masking
from secagg.names import WordBits
from secagg.plain import Plain
from secagg.roster import Roster
from secagg.scheme import Scheme
from secagg.terms import Name, Seconds, Setting

Text = Annotated[str, msgspec.Meta(max_length=256)]
MAX_ROUNDS = 100_000


class MaskingAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="masking"):
    """``Masking`` with these arguments."""

    colluders: int | None
    threshold: int | None
    min_honest: int


class PlainAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="plain"):
    """``Plain``."""


SchemeAsked: TypeAlias = MaskingAsked | PlainAsked


class RunRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run on the silos of a coordinator.

    Attributes:
        name: of the job, for people.
        rounds: of training.
        app: import path of code that the silos have approved.
        scheme, strategy: the protection; the strategy as it describes itself.
        silos: fewer in any sum make the run degraded; None for the whole roster.
        layout: (name, shape) of the tensors in the vector of weights, in order, for the model's file; empty
            for one tensor ``weights``.
        training_seconds, phase_seconds, attempts: as ``RoundCoordinator`` takes them.

    The others are the arguments of ``Federation`` of the same names.
    """

    name: Name
    rounds: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROUNDS)]
    app: Text
    scheme: SchemeAsked
    strategy: tuple[Setting, ...]
    clip: float
    weight_cap: float
    least_total_weight: float
    precision: float
    metric_bound: float
    metrics: tuple[Text, ...]
    epochs: int
    learning_rate: float | None
    seed: int
    word_bits: WordBits | None
    silos: int | None = None
    layout: tuple[tuple[Text, tuple[int, ...]], ...] = ()
    training_seconds: Seconds = 3600.0
    phase_seconds: Seconds = 60.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3

    def asked_strategy(self) -> Strategy:
        """Return the strategy.

        Raises:
            ParameterError: there is none of that name or with such parameters.
        """
        try:
            return strategy_of(dict(self.strategy))
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError("the strategy is none that this version knows") from error

    def run(
        self,
        roster: Roster,
        model: B,
        *,
        federation: str,
        job: str,
        keep: Callable[[Blocks, Record], B],
        records: Sequence[Record] = (),
    ) -> Run[B]:
        """Return the run, not yet begun, or as far as it came before its process ended.

        Args:
            roster: whose silos.
            model: the base of the next round.
            federation: its name.
            job: new for every run.
            keep: as of ``Run``.
            records: of the rounds before.

        Raises:
            ParameterError, InputRefused: a value that no run can have.
        """
        if not self.app:
            raise ParameterError("a run on silos names the code that they train with: app")
        if self.silos is not None and not 1 <= self.silos <= roster.n:
            raise ParameterError(f"silos is {self.silos}; the roster has {roster.n}")
        plan = TrainingPlan(
            strategy=self.asked_strategy(),
            length=model.length,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=self.seed,
            app=self.app,
        )
        bounds = Bounds(
            cohort=roster.n,
            metrics=self.metrics,
            clip=self.clip,
            weight_cap=self.weight_cap,
            least_total_weight=self.least_total_weight,
            precision=self.precision,
            metric_bound=self.metric_bound,
            word_bits=self.word_bits,
        )
        return Run(
            roster,
            scheme=scheme_of(self.scheme).parameters(roster.n),
            plan=plan,
            bounds=bounds,
            rounds=self.rounds,
            model=model,
            keep=keep,
            records=records,
            federation=federation,
            job=job,
            training_seconds=self.training_seconds,
            phase_seconds=self.phase_seconds,
            attempts=self.attempts,
        )


def scheme_of(asked: SchemeAsked) -> Scheme:
    """Return the scheme that ``asked`` stands for."""
    match asked:
        case MaskingAsked():
            return Masking(colluders=asked.colluders, threshold=asked.threshold, min_honest=asked.min_honest)
        case PlainAsked():
            return Plain()


def asked_of(scheme: Scheme) -> SchemeAsked:
    """Return what stands for ``scheme`` in a request."""
    match scheme:
        case Masking():
            return MaskingAsked(scheme.colluders, scheme.threshold, scheme.min_honest)
        case Plain():
            return PlainAsked()


def strategy_pairs(strategy: Strategy) -> tuple[Setting, ...]:
    """Return what stands for ``strategy`` in a request."""
    return tuple(sorted(strategy.describe().items()))
