"""One run of a federation: fresh identities, silos with journals, and a coordinator for each round.

It drives ``simulation.run_round`` and words what stops it. What to train, for how long and from where is
decided in ``federation``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, Protocol, TypeAlias

from secagg.errors import SecaggError, TooFewSilos, UsageError
from secagg.explanation import annotate, explain
from secagg.fixedpoint import Encoding
from secagg.hazmat.identity import IdentityKey
from secagg.learning.history import Record
from secagg.learning.model import GlobalModel
from secagg.learning.progress import Observer, State
from secagg.learning.settings import TrainingPlan
from secagg.learning.workload import LearningWorkload, next_model
from secagg.masking.params import Masking
from secagg.messages import FromSilo
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.plain import Plain
from secagg.records import SiloRecord
from secagg.roster import Roster
from secagg.rounds.coordinator import Past, RoundCoordinator
from secagg.rounds.silo import Participant
from secagg.session import Aggregate
from secagg.simulation import PHASES, Dropouts, SimulatedSilo, run_round
from secagg.sums import describe_round, policy_for, reasons_of
from secagg.terms import Terms

Kind: TypeAlias = Literal["train", "metrics"]


class View(Protocol):
    """All that the coordinator of a run sees, as it sees it. For audits and demonstrations."""

    def received(self, silo: SiloId, message: FromSilo) -> None:
        """The coordinator received ``message``."""
        ...

    def opened(self, terms: Terms, aggregate: Aggregate) -> None:
        """The coordinator opened the sum of a round."""
        ...


class Job:
    """The parties of one run and the model that they share.

    Args:
        workloads: one for each silo, in roster order.
        scheme: the protection.
        plan: what every round trains with.
        model: the base of round 1.
    """

    def __init__(
        self,
        workloads: Mapping[SiloId, LearningWorkload],
        *,
        scheme: Masking | Plain,
        plan: TrainingPlan,
        model: GlobalModel,
    ) -> None:
        self._workloads = workloads
        self._plan = plan
        self._model = model
        self._parameters = scheme.parameters(len(workloads))
        identities = {silo: IdentityKey.generate() for silo in workloads}
        self._roster = Roster.of({silo: identity.public for silo, identity in identities.items()})
        self._silos = {silo: SimulatedSilo(self._builder(silo, identities[silo])) for silo in workloads}
        self._protected = isinstance(scheme, Masking)
        self._past = Past()
        self._number = 0
        self._told: set[tuple[SiloId, str]] = set()

    @property
    def model(self) -> GlobalModel:
        """The model after the rounds so far."""
        return self._model

    @property
    def silos(self) -> tuple[SiloId, ...]:
        """Names in roster order."""
        return self._roster.silos

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases of the scheme, in order."""
        return PHASES if self._protected else ("Training", "PlainInput")

    def round(
        self,
        number: int,
        kind: Kind,
        encoding: Encoding,
        dropouts: Dropouts,
        *,
        observer: Observer,
        view: View | None,
    ) -> Record:
        """Run one round to its end.

        Raises:
            SecaggError: the sum was not opened; the model is unchanged, a note says what is safe.
        """
        self._number = number
        for simulated in self._silos.values():
            simulated.errors.clear()
        observer.round_started(number)
        terms = Terms(
            federation="local",
            job="federation",
            round=number,
            kind=kind,
            release=1,
            roster=self._roster.digest,
            base=self._model.digest,
            scheme=self._parameters,
            encoding=encoding,
            training=self._plan.settings(),
        )
        base = Payload.of(self._model.to_payload())
        coordinator = RoundCoordinator(self._roster, terms=terms, base=base, past=self._past)
        try:
            aggregate, traffic = run_round(
                coordinator,
                self._silos,
                dropouts=dropouts,
                timer=time.perf_counter,
                watcher=_Watcher(observer, number, self.phases),
                tap=None if view is None else view.received,
            )
            model, mean = next_model(terms, self._model, aggregate)
        except SecaggError as error:
            self._annotate(error, coordinator)
            raise
        if view is not None:
            view.opened(terms, aggregate)
        self._model, self._past = model, coordinator.past
        report = describe_round(
            terms,
            aggregate,
            coordinator,
            traffic,
            worst_error=mean.worst_error,
            metric_error=mean.metric_error if mean.metrics else None,
            clipped_share=mean.clipped if kind == "train" else None,
            saturated=mean.saturated if mean.metrics else None,
            total_weight=mean.weight if kind == "train" else mean.evaluation_weight,
        )
        observer.round_finished(report, mean.metrics)
        return Record(number - 1, mean.metrics, report)

    def left_out(self) -> Iterator[tuple[str, SecaggError]]:
        """Yield why silos left the last round by their own account; each silo's reason once in a run.

        In words for people, and the error itself.
        """
        for silo, error in self._own_accounts():
            explanation = explain(error, round_number=self._number, silo=silo, opened=True)
            if (silo, explanation.code) not in self._told:
                self._told.add((silo, explanation.code))
                text = explanation.text(ended=False)
                yield f"round {self._number} went on without {silo}\n{text}", error

    def _own_accounts(self) -> Iterator[tuple[SiloId, SecaggError]]:
        for silo, simulated in self._silos.items():
            for error in simulated.errors:
                yield silo, error

    def _builder(self, silo: SiloId, identity: IdentityKey) -> Callable[[Iterable[SiloRecord]], Participant]:
        return lambda records: Participant(
            silo,
            identity=identity,
            roster=self._roster,
            policy=policy_for(self._parameters),
            workload=self._workloads[silo],
            records=records,
        )

    def _annotate(self, error: SecaggError, coordinator: RoundCoordinator) -> None:
        """Say under ``error`` why each silo is missing, and chain it to the first one's own account."""
        number, reasons = self._number, reasons_of(coordinator)
        missing = error.missing if isinstance(error, TooFewSilos) else ()
        for silo, cause in self._own_accounts():
            reasons[silo] = str(cause).removeprefix(f"{silo}: ")
            if silo in missing and error.__cause__ is None:
                annotate(cause, explain(cause, round_number=number, silo=silo))
                # A trainer's or an input's fault lies not in the lines of this library, and Python prints
                # a cause first: without them what is printed begins with our own words.
                error.__cause__ = cause.with_traceback(None) if isinstance(cause, UsageError) else cause
        annotate(error, explain(error, round_number=number, reasons=reasons, protected=self._protected))


class _Watcher:
    """Tells an observer of runs what happens in one round."""

    def __init__(self, observer: Observer, number: int, phases: tuple[str, ...]) -> None:
        self._observer = observer
        self._number = number
        self._phases = phases

    def attempt_started(self, attempt: int) -> None:
        if attempt > 1:
            self._observer.round_started(self._number, attempt=attempt)

    def silo_working(self, silo: SiloId, phase: str) -> None:
        self._tell(silo, phase, "working")

    def silo_replied(self, silo: SiloId, phase: str) -> None:
        self._tell(silo, phase, "done")

    def silo_lost(self, silo: SiloId, phase: str) -> None:
        self._tell(silo, phase, "lost")

    def _tell(self, silo: SiloId, phase: str, state: State) -> None:
        if phase in self._phases:  # Voids and the opened sum are no phase of a silo's work.
            self._observer.silo_phase(silo, phase, state)
