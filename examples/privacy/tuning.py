"""Chooses steps and step size of each way to train from a grid, at ten silos and epsilon 3.

python -m examples.privacy.tuning

It measures on data that no figure of the page is about. What it chose for images stands in ``ways.STUDIES``;
README.md says what it prefers for banks, whose training without noise is that of ``examples.aml``. One recipe
serves all epsilons and numbers of silos. Clips are fixed: where every gradient is longer than the clip, as
here, half the clip is half the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import Annotated

import typer
from rich.console import Console

from examples.privacy.runs import run_all
from examples.privacy.ways import STUDIES, Point, Recipe, Way

SILOS, EPSILON, SEEDS = 10, 3.0, 2

GRID: Mapping[str, Mapping[Way, tuple[tuple[int, ...], tuple[float, ...]]]] = {
    "imaging": {
        Way.LOCAL: ((20, 40), (0.125, 0.25, 0.5, 1.0, 2.0)),
        Way.DISTRIBUTED: ((20, 40), (0.125, 0.25, 0.5, 1.0, 2.0)),
        Way.SILO: ((5, 10), (0.1, 0.2, 0.4, 0.8)),
        Way.PLAIN: ((40, 80, 160), (0.1, 0.2, 0.4, 0.8)),
    },
    "banks": {
        Way.LOCAL: ((25, 50, 100), (1.0, 4.0, 16.0, 64.0)),
        Way.DISTRIBUTED: ((25, 50, 100), (1.0, 4.0, 16.0, 64.0)),
        Way.SILO: ((5, 10), (0.005, 0.01, 0.02, 0.04)),
    },
}
"""Study -> way -> steps and step sizes, of which every pair is tried."""


def recipes(study: str, way: Way) -> Iterator[Recipe]:
    """Return the recipes of the grid."""
    clip = STUDIES[study].recipes[way].l2_clip_norm
    for steps, rate in product(*GRID[study][way]):
        yield Recipe(steps, rate, clip)


def main(
    *,
    study: Annotated[list[str] | None, typer.Option(help="imaging, banks; both if not given.")] = None,
    way: Annotated[list[Way] | None, typer.Option(help="All if not given.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Try the grid and print every mean score, the best first."""
    console = Console()
    for name in study or STUDIES:
        for each in way or GRID[name]:
            points = [
                replace(Point(name, each, SILOS, EPSILON, seed), recipe=recipe, tuning=True)
                for recipe in recipes(name, each)
                for seed in range(SEEDS)
            ]
            scores: dict[Recipe, list[float]] = {}
            for scored in run_all(points, workers=workers):
                if scored.point.recipe is not None:
                    scores.setdefault(scored.point.recipe, []).append(scored.score)
            console.print(f"\n[bold]{name}, {each}[/]")
            for recipe in sorted(scores, key=lambda recipe: -fmean(scores[recipe])):
                console.print(f"  {fmean(scores[recipe]):.3f}  {recipe}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
