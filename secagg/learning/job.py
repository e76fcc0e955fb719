"""One run of a federation: fresh identities, silos with journals, and a coordinator for each round.

It drives ``simulation.run_round`` and words what stops it. What to train, for how long and from where is
decided in ``federation``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from secagg.errors import SecaggError, TooFewSilos, UsageError
from secagg.explanation import annotate, explain
from secagg.hazmat.identity import IdentityKey
from secagg.learning.model import GlobalModel
from secagg.learning.progress import Observer, PhaseWatcher
from secagg.learning.run import Run
from secagg.learning.workload import LearningWorkload
from secagg.local_keys import LocalKeys
from secagg.messages import FromSilo
from secagg.names import SiloId
from secagg.privacy.ledger import Ledger
from secagg.records import SiloRecord
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.driver import RoundDriver
from secagg.rounds.reporting import reasons_of
from secagg.rounds.silo import Participant
from secagg.session import Aggregate
from secagg.simulation import Dropouts, SimulatedSilo, drive
from secagg.sums import policy_for
from secagg.terms import Terms


def new_ledger() -> Ledger:
    """Return the ledger of a silo that lives no longer than the run."""
    return Ledger("default", genesis=os.urandom(32), budget=None, keep=lambda _line, _chain: None, clock=_now)


def _now() -> int:
    return int(time.time())


@runtime_checkable
class View(Protocol):
    """All that the coordinator of a run sees, as it sees it. For audits and demonstrations."""

    def received(self, silo: SiloId, message: FromSilo) -> None:
        """The coordinator received ``message``."""
        ...

    def opened(self, terms: Terms, aggregate: Aggregate) -> None:
        """The coordinator opened the sum of a round."""
        ...


class Job:
    """The parties of one run.

    Args:
        workloads: one for each silo.
        identities: of the silos; they are those of the run's roster.
        run: what they do.
        local: the protection, and the keys of the silos.
    """

    def __init__(
        self,
        workloads: Mapping[SiloId, LearningWorkload],
        identities: Mapping[SiloId, IdentityKey],
        run: Run[GlobalModel],
        local: LocalKeys,
    ) -> None:
        self._workloads = workloads
        self._run = run
        self._policy = policy_for(local.parameters)
        self._keys = local.keys
        # What a run may spend is its own target; a budget that outlives runs is a silo process's.
        self._ledgers = {silo: new_ledger() for silo in workloads} if run.noise is not None else {}
        self._silos = {silo: SimulatedSilo(self._builder(silo, identities[silo])) for silo in workloads}
        self._number = 0
        self._told: set[tuple[SiloId, str]] = set()

    def round(self, dropouts: Dropouts, *, observer: Observer, view: View | None) -> None:
        """Run one round to its end.

        Raises:
            SecaggError: the sum was not opened; the model is unchanged, a note says what is safe.
        """
        number = self._number = self._run.number
        for simulated in self._silos.values():
            simulated.errors.clear()
        observer.round_started(number)
        coordinator = self._run.next_round()
        driver = RoundDriver(
            coordinator,
            timer=time.perf_counter,
            watcher=PhaseWatcher(observer, number, self._run.phases),
            tap=None if view is None else view.received,
        )
        try:
            aggregate = drive(driver, self._silos, dropouts=dropouts)
            record = self._run.opened(driver, aggregate)
        except SecaggError as error:
            self._annotate(error, coordinator)
            raise
        if view is not None:
            view.opened(coordinator.terms, aggregate)
        observer.round_finished(record.report, record.metrics)

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
            roster=self._run.roster,
            policy=self._policy,
            workload=self._workloads[silo],
            keys=self._keys.get(silo),
            ledger=self._ledgers.get(silo),
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
        annotate(error, explain(error, round_number=number, reasons=reasons, protected=self._run.protected))
