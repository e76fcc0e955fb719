"""``silo vertical``: what one party's operator types. What is heavy loads when it is typed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silo.options import SILO_TOML, Config

if TYPE_CHECKING:
    from rich.console import Console

    from silo.vertical.running import Asked

vertical = typer.Typer(
    no_args_is_help=True,
    help="Learn with silos that hold other columns of the same records. Every party types the same.",
)

Job = Annotated[Path, typer.Argument(metavar="JOB", help="job.toml, the same at every party.")]
Data = Annotated[
    Path, typer.Option("--data", help="This party's own table: .csv, .parquet, .npz, a database.")
]
Query = Annotated[str | None, typer.Option("--query", help="One SELECT over `data`, or over the database.")]
Ids = Annotated[
    list[str],
    typer.Option("--id", metavar="COLUMN", help="Of the identifier; repeated for a composite key."),
]
Again = Annotated[bool, typer.Option("--again", help="Forget what was kept, and begin anew; at every party.")]
Wait = Annotated[float, typer.Option("--wait", min=1, help="Seconds for which a partner is waited for.")]
SECONDS = 600.0


@vertical.command("fit")
def fit(
    job: Job,
    *,
    data: Data,
    ids: Ids,
    query: Query = None,
    label: Annotated[
        str | None, typer.Option("--label", help="The column of labels, at the one party that has them.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Columns to learn from, with commas; else all but these two."),
    ] = None,
    again: Again = False,
    wait: Wait = SECONDS,
    config: Config = SILO_TOML,
) -> None:
    """Find the records that all parties have and train on them. Stopped or killed: type it once more."""
    with _asked(job, config, data, query, ids, again=again, wait=wait) as (asked, console):
        from silo.vertical import running

        running.fit(asked, console, label=label, columns=None if columns is None else _names(columns))


@vertical.command("predict")
def predict(
    job: Job,
    *,
    data: Data,
    ids: Ids,
    query: Query = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where scores go, at the one party that learns them: .csv or .parquet."),
    ] = None,
    again: Again = False,
    wait: Wait = SECONDS,
    config: Config = SILO_TOML,
) -> None:
    """Score the records that all parties have of new tables, with the model that `fit` left."""
    with _asked(job, config, data, query, ids, again=again, wait=wait) as (asked, console):
        from silo.vertical import running

        running.predict(asked, console, out=out)


@vertical.command("report")
def report(
    job: Job,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    config: Config = SILO_TOML,
) -> None:
    """Print this party's own part of the model, and who saw what."""
    import json
    from dataclasses import asdict

    _quiet()
    from silo.vertical.running import report

    part, reports = report(job, config)
    if as_json:
        typer.echo(json.dumps({"part": part, "reports": [asdict(each) for each in reports]}))
        return
    typer.echo("This party's own part of the model")
    for name, value in part.items():
        if isinstance(value, dict):
            typer.echo(f"  {name}")
            for key, number in value.items():
                typer.echo(f"    {key:<32}{number:>14.6g}")
        else:
            typer.echo(f"  {name:<34}{value:>14.6g}")
    for each in reports:
        typer.echo(f"\n{each}")


@contextmanager
def _asked(
    job: Path, config: Path, data: Path, query: str | None, ids: list[str], *, again: bool, wait: float
) -> Iterator[tuple[Asked, Console]]:
    _quiet()
    from rich.console import Console

    from secagg import logs
    from secagg.heap import keep_freed_memory
    from silo.config import SiloConfig
    from silo.vertical.running import Asked

    logs.configure("error", extra="silo")  # What the connection says of waiting is told in other words.
    os.environ.setdefault("OMP_NUM_THREADS", str(SiloConfig.load(config).threads))
    keep_freed_memory()
    yield (
        Asked(job=job, config=config, data=data, query=query, ids=tuple(ids), again=again, wait=wait),
        Console(),
    )


def _quiet() -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
