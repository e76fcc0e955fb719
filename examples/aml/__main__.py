"""Ten banks look for laundering together under Paillier: every way to train, what it finds, what it costs.

python -m examples.aml [--seed 0] [--seeds 5] [--scheme paillier] [--out out/aml]
"""

from __future__ import annotations

import csv
import hashlib
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

from examples.aml.experiment import MODELS, ROUNDS, Comparison, Federated, Task, compare, pooled, steps
from examples.aml.generator import HELD_OUT, HONEST, LEARN, World, generate
from examples.aml.pictures import precision_recall, recall_per_typology
from examples.aml.scores import BUDGET, Curve, Findings, findings
from examples.aml.society import BANKS
from examples.aml.typologies import TYPOLOGIES
from secagg import CKKS, Masking, Paillier, Plain, ThresholdPaillier
from secagg.learning.panel import panel
from secagg.report import size
from secagg.scheme import EncryptedScheme, Scheme

LEAST_GAIN = 0.05
"""What federating must be worth, in average precision above the median bank alone."""
WAYS = ("median bank alone", "federated", "pooled")


SHOWN = "perceptron"
"""The model of whose federated run one report is printed: the larger one."""
PROTECTING = ("PlainInput", "MaskedInput", "EncryptedInput")
OPENING = ("Unmasking", "PartialDecryption", "Opened", "SumOpened", "PlainSum")


class Protection(StrEnum):
    """Of the federated run."""

    PAILLIER = "paillier"
    THRESHOLD_PAILLIER = "threshold-paillier"
    CKKS = "ckks"
    MASKING = "masking"
    PLAIN = "plain"

    def scheme(self) -> Scheme:
        """Return the scheme of this name with its own defaults: keys of full size."""
        return _SCHEMES[self]


_SCHEMES: Mapping[Protection, Scheme] = {
    Protection.PAILLIER: Paillier(),
    Protection.THRESHOLD_PAILLIER: ThresholdPaillier(),
    Protection.CKKS: CKKS(),
    Protection.MASKING: Masking(),
    Protection.PLAIN: Plain(),
}


def main(
    *,
    seed: Annotated[int, typer.Option(min=0, help="Of the world and the first weights.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Worlds to compare: seed, seed + 1, ...")] = 5,
    scheme: Annotated[Protection, typer.Option(help="Protection of the first world's federated run.")] = (
        Protection.PAILLIER
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
        others = (seeds - 1) * steps(Plain(), rounds)
        bar = progress.add_task("", total=len(MODELS) * (steps(scheme.scheme(), rounds) + others))
        told = partial(told_to, progress, bar)
        worlds = {seed: compare_models(task, scheme, seed=seed, rounds=rounds, told=told)}
        for number in range(seed + 1, seed + seeds):
            # A protected run makes the models of a plain one, as the first world shows; so plain is enough.
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
    if scheme is not Protection.PLAIN:
        show_protection(console, results, scheme)

    out.mkdir(parents=True, exist_ok=True)
    write_truth(world, out / "ground_truth.csv")
    write_results(worlds, found, scheme, out / "results.json")
    guilty = held_out.labels
    curves = {
        name: (
            [Curve.of(guilty, course.logits) for course in result.alone.values()],
            Curve.of(guilty, result.federated.logits),
            Curve.of(guilty, result.pooled.logits),
        )
        for name, result in results.items()
    }
    together = f"ten banks federated, {next(iter(results.values())).run.reports[0].scheme}"
    precision_recall(
        curves, together=together, guilty=float(guilty.mean()), path=out / "precision_recall.png"
    )
    recall_per_typology(
        {
            name: (alone.recall, together.recall, whole.recall)
            for name, (alone, together, whole) in found.items()
        },
        together=together,
        budget=BUDGET,
        path=out / "recall_per_typology.png",
    )
    console.print(
        f"\nwritten to {out}; {time.perf_counter() - started:.0f} s", soft_wrap=True, highlight=False
    )

    right = scheme is Protection.PLAIN or check_protection(console, results, scheme)
    for name in MODELS:
        least = min(comparisons[name].gain for comparisons in worlds.values())
        text = f"{name}: at least {LEAST_GAIN} above the median bank alone (least {least:+.3f})"
        verdict(console, text, least >= LEAST_GAIN)
    if not right:
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
    row("federated, plain", [each.plain.scores[-1] for each in results.values()], "bold")
    if scheme is not Protection.PLAIN:
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


def show_protection(console: Console, results: Mapping[str, Comparison], scheme: Protection) -> None:
    """Print the report of one protected round, where the model is, and what protecting cost."""
    console.print(f"\n[italic]{SHOWN}: the report of its last round[/]")
    trained = [report for report in results[SHOWN].run.reports if report.kind == "train"]
    console.print(panel(trained[-1]))
    if isinstance(scheme.scheme(), EncryptedScheme):
        text = (
            "The banks open the sum and hold the model. The coordinator adds what it cannot open: after the "
            "first weights it has ciphertexts, signatures and hashes, and no model."
        )
    else:
        text = "The coordinator opens the sum, and has the model as the banks do."
    console.print(text)
    console.print(cost_table(results))
    console.print("bytes of a round; seconds of all rounds and all banks, one after the other", style="dim")


def cost_table(results: Mapping[str, Comparison]) -> Table:
    """Return what the federated runs came to and cost: bytes of a bank and round, seconds of all of both."""
    table = Table(
        title="\nFederated from one start", title_justify="left", box=None, header_style="dim", pad_edge=False
    )
    table.add_column("")
    for column in ("last model", "a bank\nsends", "receives", "seconds", "protecting", "opening"):
        table.add_column(column if "\n" in column else f"\n{column}", justify="right")
    for name, result in results.items():
        table.add_row(name)
        for run in (result.plain_run, result.run):
            up, down = bytes_of_a_bank(run)
            figures = (run.seconds, seconds_in(run, PROTECTING), seconds_in(run, OPENING))
            table.add_row(
                f"  {run.reports[0].scheme}",
                fingerprint(run),
                size(round(up)),
                size(round(down)),
                *(f"{seconds:.1f}" for seconds in figures),
            )
    return table


def check_protection(console: Console, results: Mapping[str, Comparison], scheme: Protection) -> bool:
    """Print whether protection changed anything and rounding moved a mean as promised; return whether so."""
    right = True
    for name, result in results.items():
        run = result.run
        what = f"{len(run.seen.sums)} sums of {run.integers:,} integers and every model"
        verdict(console, f"{name}: {what} under {scheme} are those of plain, bit for bit", result.same)
        what = f"rounding moved an entry of a mean update by {run.off:.1e}, at most {run.bound:.1e} is proven"
        verdict(console, f"{name}: {what}; plain rounds alike", run.off <= run.bound)
        right = right and result.same and run.off <= run.bound
    return right


def fingerprint(run: Federated) -> str:
    """Return the first digits of the last model's hash."""
    return hashlib.sha256(run.history.model.tobytes()).hexdigest()[:10]


def bytes_of_a_bank(run: Federated) -> tuple[float, float]:
    """Return the mean of bytes that one bank sends and receives for one sum of updates."""
    trained = [report for report in run.reports if report.kind == "train"]
    banks = len(BANKS) * len(trained)
    up = sum(sum(report.bytes_up.values()) for report in trained)
    down = sum(sum(report.bytes_down.values()) for report in trained)
    return up / banks, down / banks


def seconds_in(run: Federated, phases: tuple[str, ...]) -> float:
    """Return the seconds that all banks and the coordinator together spent in some phases."""
    return sum(report.seconds.get(phase, 0.0) for report in run.reports for phase in phases)


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
    worlds: Mapping[int, Mapping[str, Comparison]],
    found: Mapping[str, tuple[Findings, ...]],
    scheme: Protection,
    path: Path,
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
    first = next(iter(worlds.values()))
    protection = {
        "scheme": scheme,
        "runs": {
            name: {
                way: {
                    "model": fingerprint(run),
                    "sums": len(run.seen.sums),
                    "integers": run.integers,
                    "rounding": {"bound": run.bound, "largest": run.off},
                    "bytes_of_a_bank": dict(zip(("up", "down"), bytes_of_a_bank(run), strict=True)),
                    "seconds": run.seconds,
                    "seconds_protecting": seconds_in(run, PROTECTING),
                    "seconds_opening": seconds_in(run, OPENING),
                }
                for way, run in (("plain", each.plain_run), (scheme, each.run))
            }
            | {"same": each.same}
            for name, each in first.items()
        },
    }
    figures = {"average_precision": precision, "alerts": alerts, "protection": protection}
    text = json.dumps(figures, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def verdict(console: Console, text: str, holds: bool) -> None:
    """Print a check and how it went."""
    console.print(
        f"[green]yes[/]  {text}" if holds else f"[red]no[/]   {text}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    typer.run(main)
