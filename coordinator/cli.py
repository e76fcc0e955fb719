"""The command ``coordinator``: what its operator and a data scientist type.

What is heavy loads inside the command that needs it, so that ``coordinator --help`` stays under 0.3 s.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from secagg.console import EXIT_STOPPED, new_app

if TYPE_CHECKING:
    from coordinator.client import Coordinator
    from coordinator.job_file import JobFile
    from coordinator.server import Serving
    from secagg.learning.remote import Layout
    from secagg.learning.request import RunRequest

EXIT_HALTED = 4

Credentials = Annotated[
    Path, typer.Option("--credentials", help="Folder with client.toml.", envvar="SECAGG_CREDENTIALS")
]
Address = Annotated[str | None, typer.Option("--address", help="host:port, if not the one in client.toml.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="As `coordinator runs` lists it.")]
HERE = Path()

app = new_app(
    "coordinator",
    "Adds what silos mask, and cannot read it. Silos dial in; it holds no data and no key of theirs.",
)
runs_app = typer.Typer(no_args_is_help=True, help="Start, watch, halt or go on with a run.")
app.add_typer(runs_app, name="run")
keys_app = typer.Typer(no_args_is_help=True, help="Keys of encrypted schemes: silos make and hold them.")
app.add_typer(keys_app, name="key")


def main() -> None:
    """Run the command line; the entry point of the console script."""
    app(prog_name="coordinator")


# --- the service --------------------------------------------------------------------------------------------


@app.command()
def up(
    *,
    config: Annotated[
        Path, typer.Option("--config", help="The coordinator's configuration.", show_default=True)
    ] = Path("coordinator.toml"),
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option("--log-level", help="What to log, on stderr."),
    ] = "info",
) -> None:
    """Serve until stopped by Ctrl-C or SIGTERM; a run that is under way goes on the next time."""
    started = time.perf_counter()
    _quiet_grpc()
    import asyncio
    import signal

    from coordinator.config import CoordinatorConfig
    from secagg import logs

    logs.configure(log_level, extra="coordinator", tracebacks=True)
    settings = CoordinatorConfig.load(config)

    from coordinator.server import serve

    def ready(here: Serving) -> None:
        for label, value, note in _parts(here):
            typer.echo(f"  {label:<10} {value:<38} {note}".rstrip())
        spent, silos = time.perf_counter() - started, len(here.lines.connected)
        typer.echo(
            f"  ready in {spent:.1f} s, {silos} of {here.lines.roster.n} silos. Ctrl-C stops, nothing is lost"
        )

    by, halted = asyncio.run(serve(settings, ready))
    if by is signal.SIGINT:
        raise typer.Exit(EXIT_STOPPED)
    if halted:
        raise typer.Exit(EXIT_HALTED)


def _parts(here: Serving) -> list[tuple[str, str, str]]:
    address = f"grpcs://{here.address}"
    parts = [
        ("state", str(here.store.path), "new" if here.store.new else ""),
        ("silos", address, "client certificates required"),
        ("control", address, "scientists and operators"),
    ]
    if here.resumed is not None:
        parts.append(("run", here.resumed, "goes on where it was"))
    return parts


@app.command()
def develop(
    folder: Annotated[Path, typer.Argument(help="Is made; it must not be there yet.")],
    *,
    silos: Annotated[str, typer.Option("--silos", help="Names, separated by commas.")],
    federation: Annotated[str, typer.Option("--federation", help="Its name.")] = "development",
    listen: Annotated[str, typer.Option("--listen", help="host:port of the coordinator.")] = "127.0.0.1:7443",
) -> None:
    """Make all keys, certificates and files of a federation, in one place: for development alone."""
    from coordinator.development import write_development_federation
    from secagg.hazmat.identity import fingerprint

    names = [name.strip() for name in silos.split(",")]
    roster = write_development_federation(folder, names, federation=federation, listen=listen)
    typer.echo(f"  {folder} is for development: one place has made all keys, so it protects nobody")
    for silo, key in roster.members:
        typer.echo(f"  {silo:<16} {fingerprint(key)}")
    typer.echo(f"  next      coordinator up --config {folder / 'coordinator' / 'coordinator.toml'}")


# --- runs ---------------------------------------------------------------------------------------------------


@runs_app.command("start")
def start(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="job.toml")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it; the exit code is the verdict.")] = False,
    credentials: Credentials = HERE,
    address: Address = None,
) -> None:
    """Start the run that a file describes."""
    from coordinator.job_file import JobFile

    asked = JobFile.load(job)

    from coordinator.model_file import read_initial

    weights, layout = read_initial(asked.initial)
    with _coordinator(address, credentials) as coordinator:
        run = coordinator.start(_request(asked, layout), weights)
        typer.echo(f"run {run}  {asked.name}")
        if wait:
            _watch(coordinator, run)
        else:
            typer.echo(f"  watch it: coordinator run watch {run}")


@runs_app.command("watch")
def watch(run: RunName, *, credentials: Credentials = HERE, address: Address = None) -> None:
    """Watch a run to its end; the exit code is its verdict."""
    with _coordinator(address, credentials) as coordinator:
        _watch(coordinator, run)


@runs_app.command("halt")
def halt(run: RunName, *, credentials: Credentials = HERE, address: Address = None) -> None:
    """Stop a run now. No model is written; it can be resumed."""
    with _coordinator(address, credentials) as coordinator:
        coordinator.halt(run)
    typer.echo(f"run {run} is halted. Go on with it: coordinator run resume {run}")


@runs_app.command("resume")
def resume(
    run: RunName,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it; the exit code is the verdict.")] = False,
    new_release: Annotated[
        bool,
        typer.Option(
            "--new-release",
            help="Begin its round anew, with noise of its own, which silos are charged for: where a set that "
            "was signed cannot form again. Under masks with noise in the sum alone.",
        ),
    ] = False,
    credentials: Credentials = HERE,
    address: Address = None,
) -> None:
    """Go on with a run that was halted, where it was; no silo trains twice."""
    with _coordinator(address, credentials) as coordinator:
        coordinator.resume(run, new_release=new_release)
        typer.echo(f"run {run} goes on")
        if wait:
            _watch(coordinator, run)


@app.command("runs")
def runs(*, credentials: Credentials = HERE, address: Address = None) -> None:
    """List all runs."""
    with _coordinator(address, credentials) as coordinator:
        shown = coordinator.runs()
    typer.echo(f"{'run':<10}{'name':<24}{'state':<11}{'rounds':<9}{'started':<18}asked by")
    for run in shown:
        rounds = f"{min(run.sums, run.rounds)}/{run.rounds}"
        typer.echo(
            f"{run.run:<10}{run.name[:23]:<24}{run.state:<11}{rounds:<9}{_moment(run.started):<18}{run.asker}"
        )


@app.command("status")
def status(*, credentials: Credentials = HERE, address: Address = None) -> None:
    """Say who is connected, and what is under way."""
    with _coordinator(address, credentials) as coordinator:
        standing = coordinator.status()
        where = coordinator.address
    typer.echo(f"{standing.federation} at {where}, secagg {standing.version}")
    for silo in standing.silos:
        state = "connected" if silo.connected else "away"
        typer.echo(f"  {silo.silo:<24}{state:<11}since {_moment(silo.since)}")
    if standing.run is None:
        typer.echo("no run is under way")
    else:
        at = "" if standing.round is None else f", round {standing.round} of {standing.run.rounds}"
        phase = "" if standing.phase is None else f", {standing.phase}"
        typer.echo(f"run {standing.run.run} ({standing.run.name}){at}{phase}")


# --- keys ---------------------------------------------------------------------------------------------------


@keys_app.command("make")
def make_key(
    *,
    scheme: Annotated[
        Literal["paillier", "threshold-paillier", "ckks"],
        typer.Option("--scheme", help="What the key is for."),
    ],
    maker: Annotated[
        str | None,
        typer.Option("--maker", help="The silo that makes it; else the first of the roster."),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Bits (Paillier, 3072) or degree (CKKS, 8192).")
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", help="Silos that open together (threshold-paillier)."),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="How long it is used.")] = 90,
    credentials: Credentials = HERE,
    address: Address = None,
) -> None:
    """Let the silos make a key; the next rounds use it in the place of the last one (rotation)."""
    from secagg.paillier.params import short_key

    if size is not None and scheme != "ckks" and (text := short_key(size)):
        typer.echo(text, err=True)
    with _coordinator(address, credentials) as coordinator:
        key = coordinator.make_key(scheme, size=size, threshold=threshold, maker=maker, days=days)
    typer.echo(key.line)


@keys_app.command("list")
def list_keys(*, credentials: Credentials = HERE, address: Address = None) -> None:
    """List all keys, and which are used now."""
    with _coordinator(address, credentials) as coordinator:
        keys = coordinator.keys()
    if not keys:
        typer.echo("no key yet; make one: coordinator key make --scheme ckks")
    for key in keys:
        typer.echo(f"{'used' if key.used else '    '}  {key.line}")


# --- small parts --------------------------------------------------------------------------------------------


def _coordinator(address: str | None, credentials: Path) -> Coordinator:
    _quiet_grpc()
    from coordinator.client import Coordinator

    return Coordinator(address, credentials=credentials)


def _watch(coordinator: Coordinator, run: str) -> None:
    from secagg.learning.progress import Progress
    from secagg.learning.remote import how_to_go_on

    try:
        with Progress() as progress:
            outcome = coordinator.watch(run, progress, waiting=lambda text: typer.echo(text, err=True))
    except KeyboardInterrupt:
        typer.echo(how_to_go_on(run), err=True)
        raise
    typer.echo(outcome.text, err=outcome.error is not None)
    if outcome.model is not None:
        typer.echo(f"  model  {outcome.model}\n  card   {outcome.card}")
    if outcome.exit:
        raise typer.Exit(outcome.exit)


def _request(job: JobFile, layout: Layout) -> RunRequest:
    from secagg.learning.request import RunRequest, asked_of, asked_privacy, strategy_pairs

    seed = int.from_bytes(os.urandom(7), "big") if job.training.seed is None else job.training.seed
    return RunRequest(
        name=job.name,
        rounds=job.rounds,
        app=job.app,
        scheme=asked_of(job.protection()),
        strategy=strategy_pairs(job.strategy.strategy()),
        metrics=job.metrics,
        epochs=job.training.epochs,
        learning_rate=job.training.learning_rate,
        seed=seed,
        silos=job.silos,
        layout=layout,
        privacy=None if job.privacy is None else asked_privacy(job.privacy.privacy(job.rounds)),
        **job.numbers.model_dump(),
        **job.waits.model_dump(),
    )


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}"


def _quiet_grpc() -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # What it would print is said in our words.
