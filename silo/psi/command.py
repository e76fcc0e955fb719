"""``silo psi``: what one party's operator types. What is heavy loads when it is typed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from silo.options import SILO_TOML, Config, LogLevel

if TYPE_CHECKING:
    from silo.config import SiloConfig
    from silo.psi.run import Request


def psi(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the session; all operators give the same.")],
    *,
    partners: Annotated[
        list[str] | None, typer.Option("--with", metavar="SILO", help="A partner; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="CSV, Parquet, SQLite, DuckDB or NumPy file with the identifiers."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="COLUMN", help="Of the identifier; repeated for a composite key."),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option("--query", help="One SELECT, whose rows are taken; a CSV or Parquet file is `data`."),
    ] = None,
    role: Annotated[
        Literal["receiver", "sender", "leader", "follower"] | None,
        typer.Option(
            "--role",
            help="Receiver or sender of two, leader or follower of more. By default the first in the roster "
            "receives, or leads.",
            show_default=False,
        ),
    ] = None,
    reveal: Annotated[
        Literal["both", "receiver", "count"],
        typer.Option("--reveal", help="Who learns which: both (all), the receiver (leader), or how many."),
    ] = "both",
    duplicates: Annotated[
        Literal["refuse", "first", "drop"],
        typer.Option("--duplicates", help="What becomes of an identifier that several rows have."),
    ] = "refuse",
    case: Annotated[
        Literal["fold", "keep"], typer.Option("--case", help="Are upper and lower case the same?")
    ] = "fold",
    spaces: Annotated[
        Literal["collapse", "remove", "keep"], typer.Option("--spaces", help="What becomes of spaces.")
    ] = "collapse",
    out: Annotated[
        Path, typer.Option("--out", help="Where rows are written: .npy, .csv or .parquet.")
    ] = Path("rows.npy"),
    wait: Annotated[
        float, typer.Option("--wait", min=1.0, help="Seconds for which partners are waited for.")
    ] = 600.0,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Take away what is kept of the session, and do nothing else.")
    ] = False,
    config: Config = SILO_TOML,
    log_level: LogLevel = "error",
) -> None:
    """Find the records that this silo shares with others, without showing any of the rest.

    Every operator types it, with the same NAME. Killed at whatever moment, it goes on when it is typed again.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from secagg import logs
    from secagg.explanation import typed
    from silo.config import SiloConfig

    logs.configure(log_level, extra="silo")
    settings = SiloConfig.load(config)
    if abandon:
        from silo.psi.session import abandon as abandon_session

        with typed():
            abandon_session(settings.state, name)
        typer.echo(f"{name} is abandoned here; what partners asked about stays counted")
        return
    if not partners or data is None or not columns:
        raise typer.BadParameter("give all of them", param_hint="--with, --data, --column")
    if role is not None and (role in {"receiver", "sender"}) != (len(partners) == 1):
        raise typer.BadParameter(
            "two parties are receiver and sender, more are leader and followers", param_hint="--role"
        )
    from secagg.psi.identifiers import Rule
    from silo.psi.run import Request

    request = Request(
        name=name,
        partners=tuple(partners),
        data=data,
        columns=tuple(columns),
        query=query,
        first=None if role is None else role in {"receiver", "leader"},
        reveal=reveal,
        rule=Rule(case=case, spaces=spaces),
        duplicates=duplicates,
        out=out,
    )
    with typed():
        _find(settings, request, wait=wait)


def _find(config: SiloConfig, request: Request, *, wait: float) -> None:
    from rich.console import Console

    from silo.progress import Telling
    from silo.psi.run import find, prepared, read, told

    offered = prepared(config, request)
    identifiers = read(request)
    counts = identifiers.counts
    typer.echo(
        f"given     {counts.given:,} rows: {counts.missing:,} without an identifier, {counts.repeated:,} "
        "left out as repeated"
    )
    stopped = (
        "what was done is kept: type the same command to go on; to give it up, type at every party: "
        f"silo psi {request.name} --abandon"
    )
    with Telling(Console(stderr=True), stopped=stopped) as telling:
        found = find(
            config,
            request,
            offered,
            identifiers,
            patience=wait,
            progress=telling.points,
            watch=telling.watch,
        )
    for line in told(found, request.out):
        typer.echo(line)
