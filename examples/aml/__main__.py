"""Ten banks look for laundering together: every way to train, what it finds, and whether the sums are right.

python -m examples.aml [--seed 0] [--seeds 5] [--scheme masking] [--out out/aml]
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from threadpoolctl import threadpool_limits

from examples.aml.experiment import MODELS, ROUNDS, Comparison, Task, compare, pooled
from examples.aml.generator import HELD_OUT, HONEST, LEARN, World, generate
from examples.aml.pictures import precision_recall, recall_per_typology
from examples.aml.scores import BUDGET, Curve, Findings, findings
from examples.aml.society import BANKS
from examples.aml.typologies import TYPOLOGIES
from secagg import Masking, Plain
from secagg.scheme import Scheme

LEAST_GAIN = 0.05
"""What federating must be worth, in average precision above the median bank alone."""
WAYS = ("median bank alone", "federated", "pooled")


class Protection(StrEnum):
    """Of the federated run."""

    MASKING = "masking"
    PLAIN = "plain"

    def scheme(self) -> Scheme:
        """Return the scheme of this name with its own defaults."""
        return Masking() if self is Protection.MASKING else Plain()


def main(
    *,
    seed: Annotated[int, typer.Option(min=0, help="Of the world and the first weights.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Worlds to compare: seed, seed + 1, ...")] = 5,
    scheme: Annotated[Protection, typer.Option(help="Protection of the first world's federated run.")] = (
        Protection.MASKING
    ),
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of training.")] = ROUNDS,
    people: Annotated[int, typer.Option(min=1_000, help="Persons and businesses.")] = 20_000,
    schemes: Annotated[int, typer.Option(min=1, help="Of each typology in each month.")] = 6,
    out: Annotated[Path, typer.Option(help="Folder for results, ground truth and pictures.")] = Path(
        "out/aml"
    ),
) -> None:
    """Train every way, print and draw what is found, check the sums."""
    console, started = Console(), time.perf_counter()
    world = generate(seed, people=people, schemes=schemes)
    made = time.perf_counter() - started
    task = Task.of(world)
    introduce(console, world, task)
    console.print(f"{len(world.payments):,} payments in two months, made in {made:.1f} s", highlight=False)

    # The models are small: two threads gain little and stall beside other work.
    with threadpool_limits(1), Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=seeds * len(MODELS) * (len(BANKS) + 2))
        told = partial(told_to, progress, bar)
        worlds = {seed: compare_models(task, scheme, seed=seed, rounds=rounds, told=told)}
        for number in range(seed + 1, seed + seeds):
            # A protected run opens the integers of a plain one, as the first world shows; so plain is enough.
            other = Task.of(generate(number, people=people, schemes=schemes))
            worlds[number] = compare_models(other, Protection.PLAIN, seed=number, rounds=rounds, told=told)
    results = worlds[seed]
    held_out = pooled(task.held_out)
    # The median of ten banks is between two of them; the fifth by average precision stands for it.
    found = {
        name: tuple(
            findings(world, HELD_OUT, held_out.accounts, course.logits)
            for course in (result.alone[result.ranked[len(BANKS) // 2 - 1]], result.federated, result.pooled)
        )
        for name, result in results.items()
    }
    console.print(precision_table(results, scheme))
    for name, ways in found.items():
        console.print(findings_table(name, ways))
    for name in MODELS:
        console.print(gains_table(name, worlds))

    out.mkdir(parents=True, exist_ok=True)
    write_truth(world, out / "ground_truth.csv")
    write_results(worlds, found, out / "results.json")
    guilty = held_out.labels
    curves = {
        name: (
            [Curve.of(guilty, course.logits) for course in result.alone.values()],
            Curve.of(guilty, result.federated.logits),
            Curve.of(guilty, result.pooled.logits),
        )
        for name, result in results.items()
    }
    precision_recall(curves, guilty=float(guilty.mean()), path=out / "precision_recall.png")
    recall_per_typology(
        {
            name: (alone.recall, together.recall, whole.recall)
            for name, (alone, together, whole) in found.items()
        },
        budget=BUDGET,
        path=out / "recall_per_typology.png",
    )
    console.print(
        f"\nwritten to {out}; {time.perf_counter() - started:.0f} s", soft_wrap=True, highlight=False
    )

    for name, result in results.items():
        verdict(console, f"{name}: every opened sum under {scheme} is that of a plain run", result.same_sums)
    for name in MODELS:
        least = min(comparisons[name].gain for comparisons in worlds.values())
        text = f"{name}: at least {LEAST_GAIN} above the median bank alone (least {least:+.3f})"
        verdict(console, text, least >= LEAST_GAIN)
    if not all(result.same_sums for result in results.values()):
        raise typer.Exit(1)


def compare_models(
    task: Task, scheme: Protection, *, seed: int, rounds: int, told: Callable[[str], None]
) -> dict[str, Comparison]:
    """Train every model every way in one world."""
    return {
        name: compare(task, model, scheme.scheme(), seed=seed, rounds=rounds, told=told)
        for name, model in MODELS.items()
    }


def told_to(progress: Progress, bar: TaskID, what: str) -> None:
    """Show what is being trained."""
    progress.update(bar, advance=1, description=what)


def introduce(console: Console, world: World, task: Task) -> None:
    """Print who takes part and what each sees."""
    table = Table(title="Ten banks, one invented society", title_justify="left", box=None)
    for column in ("bank", "accounts", "payments seen", "laundering accounts", "held out"):
        table.add_column(column, header_style="dim", justify="left" if column == "bank" else "right")
    for index, bank in enumerate(BANKS):
        learn, held_out = task.learn[bank.name], task.held_out[bank.name]
        seen = len(world.view(index, LEARN).payments)
        counts = (len(learn.accounts), seen, int(learn.labels.sum()), int(held_out.labels.sum()))
        table.add_row(bank.name, *(f"{value:,}" for value in counts))
    console.print(table)


def precision_table(results: Mapping[str, Comparison], scheme: Protection) -> Table:
    """Return average precision on all banks' held-out accounts, by who trained."""
    table = Table(
        title="\nHeld-out accounts of all banks", title_justify="left", box=None, header_style="dim"
    )
    table.add_column("average precision")
    for name in results:
        table.add_column(name, justify="right")

    def row(who: str, values: list[float], style: str = "") -> None:
        table.add_row(who, *(f"{value:.3f}" for value in values), style=style)

    for bank in BANKS:
        row(f"{bank.name} alone", [each.alone[bank.name].scores[-1] for each in results.values()])
    row("median bank alone", [each.median for each in results.values()], "bold")
    row("  each stopped at its best round", [each.best_rounds_median for each in results.values()])
    # One figure stands in both rows, as the opened integers are the same; the check at the end says so.
    if scheme is not Protection.PLAIN:
        row("federated, plain", [each.federated.scores[-1] for each in results.values()])
    row(f"federated, {scheme}", [each.federated.scores[-1] for each in results.values()], "bold")
    row("all data pooled", [each.pooled.scores[-1] for each in results.values()])
    return table


def findings_table(model: str, ways: tuple[Findings, ...]) -> Table:
    """Return recall by typology and the money missed, by way to train."""
    title = f"\n{model}: recall if {BUDGET:.0%} of accounts are alerted"
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    table.add_column("typology")
    for way in WAYS:
        table.add_column(way, justify="right")
    for typology in TYPOLOGIES:
        table.add_row(typology, *(f"{each.recall[typology]:.2f}" for each in ways))
    table.add_row("euros missed", *(f"{each.missed:,.0f}" for each in ways), style="bold")
    table.add_row(f"  of {ways[0].laundered:,.0f}", *(f"{each.missed / each.laundered:.0%}" for each in ways))
    return table


def gains_table(model: str, worlds: Mapping[int, Mapping[str, Comparison]]) -> Table:
    """Return average precision federated above the median bank alone, by world."""
    table = Table(title=f"\n{model}: average precision", title_justify="left", box=None, header_style="dim")
    for column in ("seed", "median bank alone", "best bank alone", "federated", "pooled", "gain"):
        table.add_column(column, justify="right")
    for number, comparisons in worlds.items():
        each = comparisons[model]
        best = each.alone[each.ranked[0]]
        values = (each.median, best.scores[-1], each.federated.scores[-1], each.pooled.scores[-1])
        table.add_row(str(number), *(f"{value:.3f}" for value in values), f"{each.gain:+.3f}")
    return table


def write_truth(world: World, path: Path) -> None:
    """Write every laundering payment with its scheme and typology."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("second", "sender", "receiver", "cents", "scheme", "typology"))
        payments = world.payments
        for row in (world.scheme != HONEST).nonzero()[0].tolist():
            number = int(world.scheme[row])
            columns = (payments.time, payments.sender, payments.receiver, payments.cents)
            writer.writerow(
                (*(int(column[row]) for column in columns), number, world.schemes[number].typology)
            )


def write_results(
    worlds: Mapping[int, Mapping[str, Comparison]], found: Mapping[str, tuple[Findings, ...]], path: Path
) -> None:
    """Write all figures."""
    precision = {
        str(number): {
            name: {
                "alone": {bank: course.scores[-1] for bank, course in each.alone.items()},
                "median": each.median,
                "federated": each.federated.scores[-1],
                "pooled": each.pooled.scores[-1],
                "gain": each.gain,
                "same_sums": each.same_sums,
            }
            for name, each in comparisons.items()
        }
        for number, comparisons in worlds.items()
    }
    alerts = {
        name: {
            way: {"recall": each.recall, "missed": each.missed, "laundered": each.laundered}
            for way, each in zip(WAYS, ways, strict=True)
        }
        for name, ways in found.items()
    }
    text = json.dumps({"average_precision": precision, "alerts": alerts}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def verdict(console: Console, text: str, holds: bool) -> None:
    """Print a check and how it went."""
    console.print(
        f"[green]yes[/]  {text}" if holds else f"[red]no[/]   {text}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    typer.run(main)
