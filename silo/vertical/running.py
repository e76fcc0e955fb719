"""What ``silo vertical`` does: this party's part in a job, from its files to its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from secagg.catalogue import Explanation
from secagg.conversation import Side
from secagg.errors import (
    EnvironmentFault,
    FaultySilo,
    InputRefused,
    ParameterError,
    PartnersMissing,
    UsageError,
)
from secagg.explanation import annotate, explain, explained, typed
from secagg.names import RealVector
from secagg.report import plural
from secagg.vertical.report import Report
from silo.config import SiloConfig
from silo.meeting import check_parties, meet_now
from silo.progress import Telling
from silo.storage import InUse, lock, make_folder, not_written
from silo.target import check_target
from silo.vertical.flow import Flow
from silo.vertical.job_file import VerticalJob
from silo.vertical.methods import learner_of
from silo.vertical.scores import KINDS, write_scores
from silo.vertical.shared import Intersection
from silo.vertical.store import Files
from silo.vertical.table import OwnTable, check_labels, read_own
from silo.vertical.work import ModelPart, Work, fit_of

FOLDER = "vertical"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was typed for both commands.

    Attributes:
        job: ``job.toml``.
        config: ``silo.toml``.
        data: this party's own table.
        query: see ``open_table``.
        ids: its column of identifiers; several for a composite key.
        again: forget what was kept before.
        wait: seconds for which a partner is waited for.
    """

    job: Path
    config: Path
    data: Path
    query: str | None
    ids: tuple[str, ...]
    again: bool
    wait: float


@explained(started=False)
@typed()
def fit(asked: Asked, console: Console, *, label: str | None, columns: tuple[str, ...] | None) -> None:
    """Take part in training, to its end.

    Args:
        asked: see there.
        console: where it is told how far this is.
        label: the column of labels, at the label party.
        columns: what is learned from; None for all but identifiers and label.

    Raises:
        SecaggError: see ``Flow.fit``, ``meet`` and ``read_own``.
    """
    with _party(asked, console) as party:
        labelled = party.job.label_party == party.config.name
        if labelled != (label is not None):
            raise ParameterError(
                f"{party.job.label_party} has the labels: --label names their column there, and nowhere else"
            )
        table = party.read(label=label, columns=columns)
        if table.y is not None and label is not None:
            check_labels(label, table.y, binary=party.job.is_binary)
        if asked.again:
            party.forget()
        work = party.work("fit")
        work.begin(party.job.digest, table)
        if work.done:
            party.say(
                "done", "all parties keep their parts of this model; --again at every party begins anew"
            )
            return
        try:
            report = party.meet(party.flow(table, work).fit)
        except PartnersMissing as missing:
            if work.part is None:
                raise
            raise PartnersMissing(
                missing.silos,
                f"{missing}. This party's part is kept; if theirs is too, all can predict",
                met=missing.met,
            ) from None
        party.say("kept", f"this party's part of the model, in {work.files.folder}")
        party.show(report)


@explained(started=False)
@typed()
def predict(asked: Asked, console: Console, *, out: Path | None) -> None:
    """Take part in scoring, to its end.

    Args:
        asked: see ``fit``.
        console: see there.
        out: the file for scores, at the party that learns them.

    Raises:
        SecaggError: see ``Flow.predict``, ``meet`` and ``read_own``.
    """
    with _party(asked, console) as party:
        to = party.job.scores_to
        if (party.config.name == to) != (out is not None):
            raise ParameterError(f"{to} learns the scores: name a file with --out there, and nowhere else")
        work = party.work("predict")
        anew = asked.again or work.done
        check = partial(check_target, what="scores", kinds=KINDS, data=asked.data)
        if out is not None:
            check(out, new=anew or not work.has_written(out))
        part = party.part()
        table = party.read(label=None, columns=part.columns)
        if anew:
            work.files.forget()
        work.begin(party.job.digest, table)
        target = out

        def write(rows: NDArray[np.int64], scores: RealVector) -> None:
            if target is not None:
                check(target, new=not work.has_written(target))  # Something may have come there meanwhile.
                work.writes(target)
                write_scores(target, rows, scores)

        report = party.meet(lambda: party.flow(table, work).predict(part, write))
        if out is not None:
            party.say("scores", str(out))
        party.show(report)


def report(job: Path, config: Path) -> tuple[dict[str, Any], tuple[Report, ...]]:
    """Return what this silo keeps of a job: its own part in words and numbers, and who saw what.

    Raises:
        UsageError: nothing was trained yet.
        SecaggError: a file is not what it should be.
    """
    asked, settings = VerticalJob.load(job), SiloConfig.load(config)
    folder = _folder(settings, asked)
    part = Work(folder / "fit").part
    if part is None:
        raise UsageError(
            f"nothing was trained yet for {asked.name}: silo vertical fit {job} --data ... --id ..."
        )
    reports = (Work(folder / name).report for name in ("fit", "predict"))
    return (
        learner_of(asked).shown(part.part, part.columns),
        tuple(each for each in reports if each is not None),
    )


class _Party:
    """This silo in one job."""

    def __init__(self, asked: Asked, job: VerticalJob, config: SiloConfig, telling: Telling) -> None:
        self.job = job
        self.config = config
        self.say = telling.say
        self._telling = telling
        self._asked = asked
        self._folder = _folder(config, job)

    def work(self, name: str) -> Work:
        return Work(self._folder / name)

    def forget(self) -> None:
        for name in ("fit", "predict"):
            Files(self._folder / name).forget()

    def read(self, *, label: str | None, columns: tuple[str, ...] | None) -> OwnTable:
        table = read_own(
            self._asked.data,
            query=self._asked.query,
            ids=self._asked.ids,
            label=label,
            columns=columns,
            rule=self.job.alignment.rule(),
            duplicates=self.job.alignment.duplicates,
        )
        rows, width = table.X.shape
        self.say("read", f"{plural(rows, 'row')}, {plural(width, 'column')} of {self._asked.data}")
        return table

    def part(self) -> ModelPart:
        part = self.work("fit").part
        if part is None:
            raise UsageError(f"nothing was trained yet for {self.job.name}: silo vertical fit comes first")
        if part.fit != fit_of(self.job.digest, part.alignment):
            raise ParameterError(
                "the job file says something else than when this model was trained; put it back"
            )
        return part

    def flow(self, table: OwnTable, work: Work) -> Flow:
        return Flow(
            silo=self.config.name,
            job=self.job,
            learner=learner_of(self.job),
            table=table,
            work=work,
            intersecting=Intersection(
                config=self.config,
                job=self.job,
                table=table,
                parts=len(self._asked.ids),
                folder=work.session,
                source=self._asked.data,
                progress=self._telling.points,
            ).side,
            told=self._telling.moved,
        )

    def meet(self, side: Callable[[], Side[Report]]) -> Report:
        return meet_now(
            self.config,
            meeting_of(self.job),
            self.job.parties,
            side,
            patience=self._asked.wait,
            watch=self._telling.watch,
        )

    def show(self, report: Report) -> None:
        self._telling.show(str(report))


@contextmanager
def _party(asked: Asked, console: Console) -> Iterator[_Party]:
    """Give this silo's part in a job, which no other process of it has meanwhile."""
    job, config = VerticalJob.load(asked.job), SiloConfig.load(asked.config)
    check_parties(config, meeting_of(job), job.parties)
    for partner in job.parties:
        if partner != config.name:
            config.intersections.check_partner(partner)
    config.vertical.check(job, config.name)  # Of a prediction too: it also shows as much as the job says.
    folder = _folder(config, job)
    try:
        make_folder(folder)
        file = lock(folder, folder / "lock")
    except InUse as running:
        raise EnvironmentFault(f"{job.name} is under way in process {running.pid}; let it end") from None
    except OSError as error:
        raise not_written(folder, error) from error
    try:
        same = "the same command without --again" if asked.again else "the same command"
        stopped = f"what was done is kept: type {same} to go on; --again at every party begins anew"
        with Telling(console, stopped=stopped) as telling:
            telling.say("job", f"{job.name}: {', '.join(job.parties)}; this is {config.name}")
            yield _Party(asked, job, config, telling)
    except FaultySilo as fault:
        annotate(fault, _left(fault, job.name))
        raise
    except InputRefused as refused:  # Whatever the rule: here it is a table, and no trainer's vector.
        annotate(refused, explain(InputRefused("table", str(refused)), started=False))
        raise
    finally:
        os.close(file)


def _left(fault: FaultySilo, name: str) -> Explanation:
    """Return what a partner's fault means where there is no round."""
    return replace(
        explain(fault),
        what=f"{fault.silo} left what was agreed on, and {name} stops",
        safe="yes: nothing more leaves this silo, and what is kept here stays as it is",
        you_can="ask its operator, then type the command again; what was done so far is kept",
        they_can=f"{fault.silo}: compare its job file, its records and its version with the others'",
    )


def _folder(config: SiloConfig, job: VerticalJob) -> Path:
    return config.state / FOLDER / job.name


def meeting_of(job: VerticalJob) -> str:
    """Return the name under which the parties meet."""
    return f"vertical-{job.name}"
