"""Encrypted federated learning in one process: real silo and coordinator sessions over real wire bytes.

    federation = Federation(silos={"north": trainer_a, "south": trainer_b, "west": trainer_c})
    history = federation.run(rounds=10)

Each silo evaluates the base model, trains once and uploads one protected vector; weights and metrics
travel only inside the sum. Every silo applies the strategy to the opened mean itself.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from itertools import starmap
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from secagg.errors import ParameterError, SecaggError
from secagg.explanation import explain
from secagg.fixedpoint import Encoding
from secagg.hazmat.identity import IdentityKey
from secagg.learning.history import History, Record
from secagg.learning.progress import Observer, Progress, Silent
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import FedAvg, Strategy
from secagg.learning.trainer import Initialises, Trainer
from secagg.learning.workload import LearningWorkload, next_model
from secagg.masking.params import Masking
from secagg.messages import FromSilo
from secagg.names import SiloId, WordBits
from secagg.payload import Payload
from secagg.plain import Plain
from secagg.records import SiloRecord
from secagg.roster import Roster
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.silo import Participant
from secagg.session import Aggregate
from secagg.simulation import PHASES, Dropouts, SimulatedSilo, run_round
from secagg.sums import describe_round, policy_for
from secagg.terms import Terms
from secagg.weighting import plan_mean

Scheme: TypeAlias = Masking | Plain
Kind: TypeAlias = Literal["train", "metrics"]


class View(Protocol):
    """All that the coordinator of a run sees, as it sees it. For audits and demonstrations."""

    def received(self, silo: SiloId, message: FromSilo) -> None:
        """The coordinator received ``message``."""
        ...

    def opened(self, terms: Terms, aggregate: Aggregate) -> None:
        """The coordinator opened the sum of a round."""
        ...


class Federation:
    """Silos that train one model together.

    Args:
        silos: name -> trainer, in roster order; at least 3 with ``Masking``.
        scheme: the protection; None for ``Masking()``.
        strategy: None for ``FedAvg()``.
        clip: bound of one entry of an update (local - global); entries beyond it are clipped and their
            share is reported.
        weight_cap: the most examples that one silo may have; public.
        least_total_weight: total examples to be planned for at least; public.
        precision: worst error of an entry of the mean that the planner accepts.
        metric_bound: metrics saturate beyond it, and are counted.
        metrics: names that every trainer's ``evaluate`` returns; None asks the first trainer once.
        epochs: local passes a round.
        learning_rate: local step size; None for each trainer's own.
        initial: first global weights, shape (length,); None for a fresh ``initial(seed)`` of the first
            trainer.
        seed: makes initialisation and shuffling repeatable; None for a fresh one. Never used for secrets.
        word_bits: 32 or 64; None lets the planner choose, 32 wherever the precision allows.

    Raises:
        ParameterError: unsafe or contradictory parameters; nothing has run.
    """

    def __init__(
        self,
        silos: Mapping[SiloId, Trainer],
        *,
        scheme: Scheme | None = None,
        strategy: Strategy | None = None,
        clip: float = 8.0,
        weight_cap: float = 100_000.0,
        least_total_weight: float = 1_000.0,
        precision: float = 1e-4,
        metric_bound: float = 100.0,
        metrics: Iterable[str] | None = None,
        epochs: int = 1,
        learning_rate: float | None = None,
        initial: ArrayLike | None = None,
        seed: int | None = None,
        word_bits: WordBits | None = None,
    ) -> None:
        self._trainers = dict(silos)
        self._scheme: Scheme = Masking() if scheme is None else scheme
        self._parameters = self._scheme.parameters(len(self._trainers))
        self._strategy: Strategy = FedAvg() if strategy is None else strategy
        for silo, trainer in self._trainers.items():
            if not isinstance(trainer, Trainer):
                raise ParameterError(f"{silo}: {type(trainer).__name__} has no train() and evaluate()")
        self._clip = clip
        self._weight_cap = weight_cap
        self._least_total_weight = min(least_total_weight, weight_cap * len(self._trainers))
        self._precision = precision
        self._metric_bound = metric_bound
        self._metrics = None if metrics is None else tuple(metrics)
        self._epochs = epochs
        self._learning_rate = learning_rate
        self._initial = initial
        self._seed = seed
        self._word_bits = word_bits

    def run(
        self,
        rounds: int,
        *,
        dropouts: Mapping[int, Dropouts] | None = None,
        progress: bool | Observer = True,
        view: View | None = None,
    ) -> History:
        """Train for ``rounds`` rounds and measure the final model.

        Args:
            rounds: at least 1.
            dropouts: round -> silo -> phase in which it is lost; it is back in the next round. Round
                ``rounds + 1`` is the final metrics-only sum.
            progress: True shows a live table; an ``Observer`` is told instead; False shows nothing.
            view: told all that the coordinator sees.

        Returns:
            The model, its metrics after every round, and a report for every opened sum.

        Raises:
            TooFewSilos: a round lost more silos than the threshold allows. No average was formed.
            InputRefused, TrainerFailed: as the cause of TooFewSilos, where a trainer was the reason.
            ParameterError: no encoding fits, or no trainer can make a first model.

        Every error carries a note with its code, what is safe and what to do.
        """
        if rounds < 1:
            raise ParameterError(f"rounds is {rounds}, must be at least 1")
        unknown = [r for r in dropouts or {} if not 1 <= r <= rounds + 1]
        if unknown:
            raise ParameterError(f"dropouts names round {unknown[0]}; there are rounds 1 to {rounds + 1}")
        observer = Progress() if progress is True else Silent() if progress is False else progress
        job = _Job(self, rounds, observer, view)
        with observer:
            return job.run(dropouts or {})


class _Job:
    """One call of ``run``: fresh identities, one model, one record a round."""

    def __init__(self, federation: Federation, rounds: int, observer: Observer, view: View | None) -> None:
        self._federation = federation
        self._rounds = rounds
        self._observer = observer
        self._view = view
        self._seed = int.from_bytes(os.urandom(7), "big") if federation._seed is None else federation._seed
        weights = np.asarray(self._first_weights(), dtype=np.float64)
        self._model = federation._strategy.start(weights)
        self._plan = TrainingPlan(
            strategy=federation._strategy,
            length=self._model.length,
            epochs=federation._epochs,
            learning_rate=federation._learning_rate,
            seed=self._seed,
        )
        identities = {silo: IdentityKey.generate() for silo in federation._trainers}
        self._roster = Roster.of({silo: identity.public for silo, identity in identities.items()})
        self._workloads = {s: LearningWorkload(s, trainer) for s, trainer in federation._trainers.items()}
        self._silos = {s: SimulatedSilo(self._builder(s, identities[s])) for s in self._roster.silos}
        self._metrics = self._metric_names()
        self._training = self._encoding(self._model.length)
        self._measuring = self._encoding(0) if self._metrics else None

    def run(self, dropouts: Mapping[int, Dropouts]) -> History:
        phases = PHASES if isinstance(self._federation._scheme, Masking) else ("Training", "MaskedInput")
        self._observer.run_started(self._roster.silos, phases, rounds=self._rounds)
        sums: list[tuple[int, Kind, Encoding, Dropouts | None]] = [
            (number, "train", self._training, dropouts.get(number)) for number in range(1, self._rounds + 1)
        ]
        if self._measuring is not None:
            last = self._rounds + 1
            sums.append((last, "metrics", self._measuring, dropouts.get(last)))
        records = tuple(starmap(self._round, sums))
        return History(self._model.weights, records)

    def _round(self, number: int, kind: Kind, encoding: Encoding, dropouts: Dropouts | None) -> Record:
        terms = Terms(
            federation="local",
            job="federation",
            round=number,
            kind=kind,
            release=1,
            roster=self._roster.digest,
            base=self._model.digest,
            scheme=self._federation._parameters,
            encoding=encoding,
            training=self._plan.settings(),
        )
        base = Payload.of(self._model.to_payload())
        coordinator = RoundCoordinator(self._roster, terms=terms, base=base)
        self._observer.round_started(number)
        for silo in self._silos.values():
            silo.errors.clear()
        try:
            aggregate, traffic = run_round(
                coordinator,
                self._silos,
                dropouts=dropouts,
                timer=time.perf_counter,
                watcher=_Watcher(self._observer, number),
                tap=None if self._view is None else self._view.received,
            )
            if self._view is not None:
                self._view.opened(terms, aggregate)
            self._model, mean = next_model(terms, self._model, aggregate)
        except SecaggError as error:
            raise self._explained(error, number, coordinator) from self._silo_error()
        self._warn(number)
        report = describe_round(
            terms,
            aggregate,
            coordinator,
            traffic,
            worst_error=mean.worst_error,
            clipped_share=mean.clipped,
            saturated=mean.saturated,
            total_weight=mean.weight if kind == "train" else mean.evaluation_weight,
        )
        self._observer.round_finished(report, mean.metrics)
        return Record(number - 1, mean.metrics, report)

    # --- before the first round ----------------------------------------------------------------------------

    def _first_weights(self) -> ArrayLike:
        if self._federation._initial is not None:
            return self._federation._initial
        silo, trainer = next(iter(self._federation._trainers.items()))
        if not isinstance(trainer, Initialises):
            raise ParameterError(
                f"{silo}: {type(trainer).__name__} has no initial(seed); give Federation(initial=weights)"
            )
        return trainer.initial(self._seed)

    def _metric_names(self) -> tuple[str, ...]:
        if self._federation._metrics is not None:
            return self._federation._metrics
        return tuple(next(iter(self._workloads.values())).evaluate(self._model).metrics)

    def _encoding(self, length: int) -> Encoding:
        federation = self._federation
        return plan_mean(
            length,
            clip=federation._clip,
            cohort=len(federation._trainers),
            weight_cap=federation._weight_cap,
            least_total_weight=federation._least_total_weight,
            metrics=self._metrics,
            metric_bound=federation._metric_bound,
            # Metrics are read by people; a metrics-only sum need not be finer than its range suggests.
            precision=federation._precision if length else federation._precision * federation._metric_bound,
            word_bits=federation._word_bits,
        )

    def _builder(self, silo: SiloId, identity: IdentityKey) -> Callable[[Iterable[SiloRecord]], Participant]:
        return lambda records: Participant(
            silo,
            identity=identity,
            roster=self._roster,
            policy=policy_for(self._federation._parameters),
            workload=self._workloads[silo],
            records=records,
        )

    # --- errors --------------------------------------------------------------------------------------------

    def _silo_error(self) -> SecaggError | None:
        """Return why a silo left this round by its own account: the likely reason of an abort."""
        return next((error for silo in self._silos.values() for error in silo.errors), None)

    def _explained(self, error: SecaggError, number: int, coordinator: RoundCoordinator) -> SecaggError:
        reasons = dict(coordinator.losses)
        reasons |= {s: str(e.errors[0]).removeprefix(f"{s}: ") for s, e in self._silos.items() if e.errors}
        protected = not isinstance(self._federation._scheme, Plain)
        error.add_note(explain(error, round_number=number, reasons=reasons, protected=protected).text())
        return error

    def _warn(self, number: int) -> None:
        for silo in self._silos.values():
            for error in silo.errors:
                explanation = explain(error, round_number=number)
                warnings.warn(
                    f"round {number} went on without a silo\n{explanation.text()}", SiloLeftOut, 5
                )  # the caller of run()


class SiloLeftOut(UserWarning):
    """A round went on without a silo whose trainer or policy said no."""


class _Watcher:
    """Tells an observer of runs what happens in one round."""

    def __init__(self, observer: Observer, number: int) -> None:
        self._observer = observer
        self._number = number

    def attempt_started(self, attempt: int) -> None:
        if attempt > 1:
            self._observer.round_started(self._number, attempt=attempt)

    def silo_working(self, silo: SiloId, phase: str) -> None:
        self._tell(silo, phase, "working")

    def silo_replied(self, silo: SiloId, phase: str) -> None:
        self._tell(silo, phase, "done")

    def silo_lost(self, silo: SiloId, phase: str) -> None:
        self._tell(silo, phase, "lost")

    def _tell(self, silo: SiloId, phase: str, state: Literal["working", "done", "lost"]) -> None:
        if phase in PHASES:
            self._observer.silo_phase(silo, phase, state)
