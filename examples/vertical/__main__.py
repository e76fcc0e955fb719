"""`make demo-vertical`: two silos with other columns of the same people learn and score together.

python -m examples.vertical [--trees 20] [--output demo-output/vertical]
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from examples.vertical.curves import Curve
from examples.vertical.data import Task, breast_cancer, caravan
from examples.vertical.parties import Parties
from examples.vertical.pictures import roc
from examples.vertical.pooled import Table, boosted, logistic
from secagg.errors import EnvironmentFault
from secagg.names import SiloId
from secagg.vertical.report import Report, Seen
from secagg.vertical.trees.settings import Settings

L2 = 1.0
CLOSE = 1e-4
"""How far a coefficient may be from that of pooled training."""
KILLED_AFTER = 3
"""Steps that the killed silo has on disk."""
TITLES = {"logistic": "Logistic regression", "trees": "Boosted trees"}


def main(
    *,
    trees: Annotated[int, typer.Option(min=KILLED_AFTER + 2, help="How many are grown.")] = 20,
    output: Annotated[Path, typer.Option(help="Folder for the picture and the table.")] = Path(
        "demo-output/vertical"
    ),
    small: Annotated[
        bool, typer.Option("--small", help="Breast cancer, 569 records, also where Caravan is there.")
    ] = False,
) -> None:
    """Find shared records, train two models, kill a silo, score together, compare with pooled data."""
    console, started = Console(), time.perf_counter()
    task = _task(console, small=small)
    names = tuple(party.name for party in task.train)
    label_party = next(party.name for party in task.train if party.y is not None)
    settings = Settings(trees=trees)
    _introduce(console, task)

    def said(name: SiloId, line: str) -> None:
        console.print(f"  [dim]{name:>10}[/]  {escape(line)}", highlight=False, soft_wrap=True)

    scores: dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
    reports: dict[str, dict[SiloId, dict[str, Any]]] = {}
    with Parties(output / "federation", names, label_party, said) as parties:
        console.print(f"keys, tables, state and logs: {parties.folder}", soft_wrap=True, highlight=False)
        parties.write("train", task.train)
        parties.write("test", task.test)
        parties.job("logistic", f'[logistic]\nlink = "open"\nl2 = {L2}\ntolerance = {CLOSE / 10}\n')
        parties.job("trees", f"[trees]\ntrees = {trees}\n")
        for job, killed in (("logistic", None), ("trees", (names[0], KILLED_AFTER))):
            began = time.perf_counter()
            _heading(console, f"{TITLES[job]}: silo vertical fit {job}.toml, at {' and '.join(names)}")
            parties.fit(job, killed=killed)
            _heading(console, f"Held-out records: silo vertical predict {job}.toml")
            scores[job] = parties.predict(job)
            reports[job] = {name: parties.report(name, job) for name in names}
            console.print(f"  {time.perf_counter() - began:.0f} s with PSI, training and prediction")

    _heading(console, "The same with all data in one place")
    train, test = Table.of_shared(task.train), Table.of_shared(task.test)
    close = _compare_coefficients(console, reports["logistic"], names, train)
    joint = {job: _in_order(test, *found) for job, found in scores.items()}
    same = _compare_scores(console, joint["trees"], boosted(train, test, settings))

    panels = {
        TITLES["logistic"]: _curves(task, train, test, joint["logistic"], None),
        TITLES["trees"]: _curves(task, train, test, joint["trees"], settings),
    }
    output.mkdir(parents=True, exist_ok=True)
    picture, words = output / "roc.png", output / "who_saw_what.txt"
    roc(panels, title=f"{task.title}: {len(test.labels):,} held-out records", path=picture)
    _heading(console, "Who saw what")
    told = "\n\n".join(str(report) for report in _merged(reports))
    words.write_text(told + "\n", encoding="utf-8")
    console.print(told, highlight=False, soft_wrap=True, markup=False)
    _heading(console, "Area under the curve on held-out records")
    console.print(_areas(panels))
    _heading(console, "Written")
    for path in (picture, words, parties.scores("trees")):
        console.print(f"  {path}", soft_wrap=True, highlight=False)
    console.print(f"\n{time.perf_counter() - started:.0f} s")
    if not (close and same):
        raise typer.Exit(1)


def _task(console: Console, *, small: bool) -> Task:
    if not small:
        try:
            return caravan()
        except EnvironmentFault as missing:
            console.print(f"{missing}. Until then: breast cancer", highlight=False, soft_wrap=True)
    return breast_cancer()


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/]", highlight=False)


def _introduce(console: Console, task: Task) -> None:
    table = Shown(title=task.title, title_justify="left", box=None)
    for column in ("party", "columns", "records to learn from", "held out", "labels"):
        table.add_column(column, header_style="dim", justify="left" if column == "party" else "right")
    for train, test in zip(task.train, task.test, strict=True):
        rows, width = train.X.shape
        labels = "yes" if train.y is not None else "-"
        table.add_row(train.name, str(width), f"{rows:,}", f"{len(test.X):,}", labels)
    console.print(table)


def _compare_coefficients(
    console: Console, reports: Mapping[SiloId, Mapping[str, Any]], names: Sequence[SiloId], train: Table
) -> bool:
    """Print how far the parties' coefficients are from pooled ones; return whether that is close."""
    pooled = logistic(train, L2)
    own = [reports[name]["part"] for name in names]
    joint = [value for part in own for value in part["coefficients"].values()]
    intercept = next(part["intercept"] for part in own if "intercept" in part)
    away = float(np.abs(np.array([*joint, intercept]) - [*pooled.coef_[0], *pooled.intercept_]).max())
    close = away <= CLOSE
    verdict = "[green]within[/]" if close else "[red]not within[/]"
    console.print(
        f"{len(joint)} coefficients and the intercept, joint and by scikit-learn on pooled data: the largest "
        f"difference is {away:.1e}, {verdict} {CLOSE:g}",
        highlight=False,
    )
    return close


def _compare_scores(console: Console, joint: np.ndarray[Any, Any], pooled: np.ndarray[Any, Any]) -> bool:
    same = bool(np.array_equal(joint, pooled))
    verdict = "[green]bit for bit the same[/]" if same else "[red]different[/]"
    console.print(
        f"{len(joint):,} scores of trees, joint and grown on pooled data: {verdict}", highlight=False
    )
    return same


def _in_order(test: Table, rows: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return scores in the order of ``test``; the label party wrote its own row with each."""
    if not np.array_equal(np.sort(rows), test.rows):
        raise EnvironmentFault("the records that were scored are not those that all parties have")
    return scores[np.searchsorted(rows, test.rows)]


def _curves(
    task: Task, train: Table, test: Table, joint: np.ndarray[Any, Any], settings: Settings | None
) -> tuple[dict[str, Curve], Curve, Curve]:
    """Return the curves of each party alone, of all together, and of pooled data."""

    def learned(from_: Table, on: Table) -> Curve:
        if settings is None:
            return Curve.of(on.labels, logistic(from_, L2).decision_function(on.together))
        return Curve.of(on.labels, boosted(from_, on, settings))

    alone = {}
    for at, party in enumerate(task.train):
        own = Table((test.columns[at],), test.labels, test.rows)
        if party.y is None:  # What its columns tell: by itself it has no labels to learn from.
            alone[f"{party.name}'s columns"] = learned(
                Table((train.columns[at],), train.labels, train.rows), own
            )
        else:
            alone[party.name] = learned(Table.of_one(party, party.y), own)
    return alone, Curve.of(test.labels, joint), learned(train, test)


def _areas(panels: Mapping[str, tuple[Mapping[str, Curve], Curve, Curve]]) -> Shown:
    table = Shown(box=None, header_style="dim")
    table.add_column("", no_wrap=True)
    first = next(iter(panels.values()))
    for name in (*(f"{name} alone" for name in first[0]), "joint", "pooled"):
        table.add_column(name, justify="right", no_wrap=True)
    for way, (alone, joint, pooled) in panels.items():
        areas = [curve.area for curve in (*alone.values(), joint, pooled)]
        table.add_row(way, *(f"{area:.3f}" for area in areas))
    return table


def _merged(reports: Mapping[str, Mapping[SiloId, Mapping[str, Any]]]) -> list[Report]:
    """Return one report a training and a prediction, with the rows that each party's own has."""
    merged = []
    for by_party in reports.values():
        for same in zip(*(each["reports"] for each in by_party.values()), strict=True):
            seen = [
                Seen(**row)
                for name, report in zip(by_party, same, strict=True)
                for row in report["seen"]
                if row["party"] == name
            ]
            notes = dict.fromkeys(note for report in same for note in report["notes"])
            merged.append(Report(same[0]["title"], tuple(seen), tuple(notes)))
    return merged


if __name__ == "__main__":
    typer.run(main)
