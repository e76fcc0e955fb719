"""Score over epsilon: no noise, local noise, distributed noise; 3, 5 and 10 silos; two data sets.

python -m examples.privacy.utility [--quick] [--study imaging] [--seeds 3] [--out out/privacy]

What it is: every point is a federation of its own under masks, with ``privacy=`` as anybody would give it,
and its model is measured on data that no silo trains on. It prints all points, draws one picture a data set
and checks what distributed noise is for: at ten silos and epsilon 3 it scores at least five points above
local noise, on average over the seeds.

What it does not do: it tunes nothing; ``tuning`` did, on other data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from examples.privacy.pictures import score_over_epsilon
from examples.privacy.runs import run_all
from examples.privacy.ways import DELTA, STUDIES, Point, Recipe, Scored, Way

SILOS = (3, 5, 10)
EPSILONS = (0.5, 1.0, 3.0, 8.0)
LEAST_GAIN = 0.05
CHECKED_SILOS, CHECKED_EPSILON = 10, 3.0

_QUICK = Recipe(2, 1.0)
_QUICK_SIZES: Mapping[str, Mapping[str, int]] = {"imaging": {"records": 40}, "banks": {"people": 2_000}}


def points(study: str, *, seeds: int = 3, quick: bool = False) -> list[Point]:
    """Return what is to be run for one data set.

    Args:
        study: its name.
        seeds: draws of the data for each point.
        quick: two steps on little data, three silos: to see that everything runs.
    """
    if quick:
        return [
            Point(study, way, SILOS[0], epsilon, 0, recipe=_QUICK, sized=_QUICK_SIZES[study])
            for way in Way
            for epsilon in (EPSILONS[-2:] if way is not Way.PLAIN else EPSILONS[-1:])
        ]
    return [
        Point(study, way, silos, epsilon, seed)
        for silos in SILOS
        for way in Way
        for epsilon in (EPSILONS if way is not Way.PLAIN else EPSILONS[-1:])
        for seed in range(seeds)
    ]


def gain(scored: Sequence[Scored]) -> float | None:
    """Return how far distributed noise is above local noise where it is checked; None if nothing is there."""

    def mean(way: Way) -> float | None:
        scores = [
            each.score
            for each in scored
            if (each.point.way, each.point.silos, each.point.epsilon) == (way, CHECKED_SILOS, CHECKED_EPSILON)
        ]
        return fmean(scores) if scores else None

    distributed, local = mean(Way.DISTRIBUTED), mean(Way.LOCAL)
    return None if distributed is None or local is None else distributed - local


def main(
    *,
    study: Annotated[list[str] | None, typer.Option(help="imaging, banks; both if not given.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of the data for each point.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="Two steps, to see that everything runs.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for pictures and figures.")] = Path("out/privacy"),
) -> None:
    """Run every point, print, draw and check."""
    console, started = Console(), time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    holds = True
    for name in study or STUDIES:
        if name not in STUDIES:
            raise typer.BadParameter(f"{name} is none of {', '.join(STUDIES)}")
        console.print(f"\n[bold]{STUDIES[name].title}[/] ({name})")
        todo = points(name, seeds=seeds, quick=quick)
        scored = []
        for done in run_all(todo, workers=1 if quick else workers):
            scored.append(done)
            if len(scored) % 10 == 0 or len(scored) == len(todo):
                seconds = time.perf_counter() - started
                console.print(f"  {len(scored)} of {len(todo)} runs, {seconds:.0f} s", style="dim")
        console.print(scores_table(name, scored))
        for path in write(name, scored, out):
            console.print(f"written {path}", soft_wrap=True, highlight=False)
        reached = gain(scored)
        if reached is not None:
            right = reached >= LEAST_GAIN
            console.print(
                f"{'[green]yes[/]' if right else '[red]no[/] '}  distributed above local noise at "
                f"{CHECKED_SILOS} silos, epsilon {CHECKED_EPSILON:g}: {100 * reached:+.1f} points, at least "
                f"{100 * LEAST_GAIN:.0f} are asked for",
                highlight=False,
            )
            holds = holds and right
    if not holds:
        raise typer.Exit(1)


Scores = Mapping[Way, Mapping[int, Mapping[float, Sequence[float]]]]


def by_way(scored: Sequence[Scored]) -> Scores:
    """Return way -> silos -> epsilon -> scores, each in order."""
    found: dict[Way, dict[int, dict[float, list[float]]]] = {way: {} for way in Way}
    for each in sorted(scored, key=lambda each: (each.point.silos, each.point.epsilon, each.point.seed)):
        point = each.point
        found[point.way].setdefault(point.silos, {}).setdefault(point.epsilon, []).append(each.score)
    return found


def scores_table(study: str, scored: Sequence[Scored]) -> Table:
    """Return mean, least and most of every point."""
    scores = by_way(scored)
    table = Table(
        title=f"\n{STUDIES[study].measure}: mean (least-most), delta {DELTA:g}",
        title_justify="left",
        box=None,
        header_style="dim",
    )
    for column in ("silos", "", *(f"epsilon {value:g}" for value in _epsilons(scores))):
        table.add_column(column, justify="left" if not column else "right")
    for silos in scores[Way.PLAIN]:
        for way in Way:
            cells = [_cell(values) for values in scores[way][silos].values()]
            table.add_row(str(silos), str(way), *cells)
    return table


def _epsilons(scores: Scores) -> list[float]:
    return sorted({epsilon for silos in scores[Way.LOCAL].values() for epsilon in silos})


def _cell(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ({min(values):.2f}-{max(values):.2f})"


def write(study: str, scored: Sequence[Scored], out: Path) -> tuple[Path, Path]:
    """Write the picture and every run of one data set."""
    scores = by_way(scored)
    picture, figures = out / f"utility_{study}.png", out / f"utility_{study}.json"
    score_over_epsilon(
        {silos: next(iter(values.values())) for silos, values in scores[Way.PLAIN].items()},
        {way: scores[way] for way in (Way.DISTRIBUTED, Way.LOCAL, Way.SILO)},
        title=STUDIES[study].title,
        measure=STUDIES[study].measure,
        chance=STUDIES[study].chance,
        path=picture,
    )
    rows = [
        {
            "way": each.point.way,
            "silos": each.point.silos,
            "epsilon": None if each.spent is None else each.point.epsilon,
            "seed": each.point.seed,
            "score": each.score,
            "epsilon_of_the_silos_that_took_part": each.spent,
        }
        for each in scored
    ]
    figures.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return picture, figures


if __name__ == "__main__":
    typer.run(main)
