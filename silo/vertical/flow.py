"""The one flow of a vertical job, from this party's side: shared records, training, and scoring together.

It knows its own table and no transport: who drives the side carries what it says. What it keeps is on disk
before the next thing is said, so a side that was dropped, or a process that was killed, goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side
from secagg.errors import InputRefused, ProtocolError
from secagg.names import RealVector, SiloId
from secagg.psi.outcome import Outcome
from secagg.vertical.checkpoints import Checkpoints
from secagg.vertical.report import Report, Seen
from silo.vertical.job_file import VerticalJob
from silo.vertical.learner import Learner, Own, Trained
from silo.vertical.opening import Command, Opening, began_anew, closed, opened
from silo.vertical.table import OwnTable
from silo.vertical.work import Aligned, ModelPart, Work, fit_of

Intersecting: TypeAlias = Callable[[Callable[[Outcome], None]], Side[None]]
"""Makes this party's side of the intersection of what all have. It hands over what this party learned before
it says that it has it, and ends when all have said so."""
Told: TypeAlias = Callable[[str, str], None]
"""Told how far the work is: a word, and what is to be said of it."""


class _Counted:
    """Checkpoints that tell of each step that is on disk."""

    def __init__(self, checkpoints: Checkpoints, told: Told) -> None:
        self._checkpoints = checkpoints
        self._told = told

    def save(self, step: int, state: bytes) -> None:
        """See ``Checkpoints``."""
        self._checkpoints.save(step, state)
        self._told("training", f"step {step} is on disk")

    def load(self) -> Mapping[int, bytes]:
        """See ``Checkpoints``."""
        return self._checkpoints.load()


@dataclass(frozen=True, kw_only=True, eq=False)
class Flow:
    """One party's part in a job.

    Args:
        silo: this party.
        job: what all agreed on.
        learner: how they learn.
        table: this party's own.
        work: where it is kept how far this is.
        intersecting: finds the shared records.
        told: of progress; in the thread that drives the side.
    """

    silo: SiloId
    job: VerticalJob
    learner: Learner
    table: OwnTable = field(repr=False)
    work: Work
    intersecting: Intersecting
    told: Told

    @property
    def _others(self) -> tuple[SiloId, ...]:
        return tuple(party for party in self.job.parties if party != self.silo)

    def fit(self) -> Side[Report]:
        """Return the side of training: this party's part of the model and the report are kept at its end.

        Raises:
            FaultySilo: a partner means another job, has other records, or left the protocol.
            InputRefused: no records are shared.
            SecaggError: as the learner's side raises.

        Guarantees:
            Interrupted anywhere and made anew, it keeps the same part.
            At its end every party has kept its part.
        """
        aligned = yield from self._aligned("fit", None)
        fitted = yield from self.learner.fit(
            self._own(aligned, self.table.y), _Counted(self.work.checkpoints, self.told)
        )
        self.work.part = ModelPart(
            fit=fit_of(self.job.digest, aligned.digest),
            columns=self.table.columns,
            alignment=aligned.digest,
            count=len(aligned.places),
            part=fitted.part,
        )
        return (yield from self._ended(self._with_intersection(fitted.report, aligned)))

    def predict(
        self, part: ModelPart, write: Callable[[NDArray[np.int64], RealVector], None]
    ) -> Side[Report]:
        """Return the side of scoring this party's table together with the others'.

        Args:
            part: of the model, as ``fit`` kept it.
            write: writes rows of this party's table and their scores; called at the party that learns them,
                again if the side is made anew, each time with the same.

        Raises:
            FaultySilo: a partner means another job, has another model or other records, or left the protocol.
            InputRefused: no records are shared.
            SecaggError: as the learner's side and ``write`` raise.
        """
        aligned = yield from self._aligned("predict", part.fit)
        trained = Trained(part.alignment, part.count)
        own = self._own(aligned, None)
        predicted = yield from self.learner.predict(part.part, trained, own, self.job.scores_to)
        if predicted.scores is not None:
            order = np.argsort(aligned.places)  # The order in which all have them tells of no row; this does.
            write(aligned.places[order], predicted.scores[order])
        return (yield from self._ended(self._with_intersection(predicted.report, aligned)))

    def _ended(self, report: Report) -> Side[Report]:
        """Keep the report, and return it when every party has kept what came out."""
        self.work.report = report
        yield from closed(self._others)
        self.work.end()
        return report

    def _with_intersection(self, report: Report, aligned: Aligned) -> Report:
        """Return ``report`` with what this party saw before it."""
        others = " and ".join(self._others)
        found = Seen(
            party=self.silo,
            what=f"which of its own records are shared with {others}",
            clear=len(aligned.places),
        )
        return Report(report.title, (found, *report.seen), report.notes)

    def _own(self, aligned: Aligned, labels: RealVector | None) -> Own:
        return Own(
            name=self.silo,
            parties=self.job.parties,
            label_party=self.job.label_party,
            columns=self.table.columns,
            X=self.table.X[aligned.places],
            y=None if labels is None else labels[aligned.places],
            alignment=aligned.digest,
        )

    def _aligned(self, command: Command, fit: bytes | None) -> Side[Aligned]:
        """Return the shared records: those that every party keeps, or by an intersection."""
        kept = self.work.alignment
        opening = Opening(self.job.digest, command, fit, None if kept is None else kept.digest)
        lacking = yield from opened(opening, self._others)
        if kept is not None and lacking and not self.work.intersection_is_open:
            # Every party had it once: another intersection would be one more question about this table.
            raise began_anew(lacking[0])
        if kept is None or lacking:
            self.told("finding", f"shared records with {', '.join(self._others)}")
            yield from self.intersecting(lambda found: self._keep(found, lacking))
            kept = self.work.alignment
        if kept is None or not len(kept.places):
            raise InputRefused("table", "no record is at every party; compare how identifiers are spelt")
        self.work.forget_intersection()
        self.told("shared", f"{len(kept.places):,} records")
        return kept

    def _keep(self, found: Outcome, lacking: Sequence[SiloId]) -> None:
        if found.rows is None or found.digest is None:
            raise ProtocolError("the intersection ended without rows")
        kept = self.work.alignment
        if kept is None:
            self.work.alignment = Aligned.of(found.rows, found.digest)
        elif kept.digest != found.digest:
            raise began_anew(lacking[0])
