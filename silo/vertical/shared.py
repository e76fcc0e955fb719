"""This party's side of the intersection in a vertical job; sessions and limits are those of ``silo psi``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from secagg.conversation import Side
from secagg.psi.agreement import Settings
from secagg.psi.outcome import Outcome
from secagg.psi.powers import Powers, Progress
from secagg.psi.sides import learned
from silo.config import SiloConfig
from silo.psi.run import one_side
from silo.psi.session import Session
from silo.vertical.job_file import VerticalJob
from silo.vertical.table import OwnTable


@dataclass(frozen=True, kw_only=True)
class Intersection:
    """One intersection of what all parties of a job have.

    Args:
        config: of this silo: its limits, and where what partners ask about is counted.
        job: who takes part, and by which rule identifiers are read.
        table: this party's own.
        parts: columns of a key.
        folder: where the session is kept until all have its result.
        source: of the table, for errors.
        progress: told of points.
    """

    config: SiloConfig
    job: VerticalJob
    table: OwnTable = field(repr=False)
    parts: int
    folder: Path
    source: Path
    progress: Progress

    def side(self, keep: Callable[[Outcome], None]) -> Side[None]:
        """Return this party's side; it ends when every party has kept what it learned.

        Args:
            keep: takes what was learned; it is on disk when this returns.

        Raises:
            PolicyRefused: a limit of this party, or of another.
            SecaggError: see ``Session`` and ``one_side``.
        """
        config = self._config()
        settings = Settings(
            parties=self.job.parties,
            case=self.job.alignment.case,
            spaces=self.job.alignment.spaces,
            parts=self.parts,
            smallest_intersection=config.intersections.smallest_intersection,
        )
        with Session(
            self.folder,
            self.job.name,
            settings=settings,
            identifiers=self.table.identifiers,
            source=self.source,
            anew="the command with --again",
        ) as session:
            yield from one_side(
                config,
                session,
                settings,
                self.table.identifiers,
                powers=Powers(progress=self.progress, buckets=session),
                keep=lambda found: keep(learned(found)),
            )

    def _config(self) -> SiloConfig:
        """Return the configuration with the stricter of the job's and this silo's limit."""
        own = self.config.intersections
        smallest = max(own.smallest_intersection, self.job.alignment.smallest)
        stricter = own.model_copy(update={"smallest_intersection": smallest})
        return self.config.model_copy(update={"intersections": stricter})
