"""The command ``silo``: what a data holder's operator types.

What is heavy loads inside the command that needs it, so that ``silo --help`` stays under 0.3 s.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secagg.console import EXIT_STOPPED, new_app
from silo.options import SILO_TOML, Config, LogLevel
from silo.psi.command import psi
from silo.vertical.commands import vertical

if TYPE_CHECKING:
    from silo.agent import Agent

app = new_app(
    "silo", "One data holder's side of a federation. It dials out to the coordinator; nothing listens here."
)
apps = typer.Typer(no_args_is_help=True, help="Training code that this silo may run.")
rosters = typer.Typer(no_args_is_help=True, help="The silos whose keys are pinned here.")
app.add_typer(apps, name="app")
app.add_typer(rosters, name="roster")
keys = typer.Typer(no_args_is_help=True, help="Keys of encrypted schemes that this silo holds.")
app.add_typer(keys, name="key")
models = typer.Typer(no_args_is_help=True, help="Models of encrypted runs, which silos alone have.")
app.add_typer(models, name="model")
ledgers = typer.Typer(no_args_is_help=True, help="What was released of this silo's data, and what is left.")
app.add_typer(ledgers, name="ledger")
app.add_typer(vertical, name="vertical")


def main() -> None:
    """Run the command line; the entry point of the console script."""
    try:
        app(prog_name="silo")
    except SystemExit as end:
        _leave(end)


def _leave(end: SystemExit) -> None:
    """End the process without waiting for a thread that computes, which must not see the interpreter die."""
    computing = {("silo.agent", "ROUNDS"), ("silo.side", "SIDE")}
    names = {getattr(sys.modules.get(module), name, None) for module, name in computing}
    if any(thread.name in names for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)
    raise end


@app.command()
def run(
    *,
    config: Config = SILO_TOML,
    log_level: LogLevel = "info",
    debug: Annotated[
        bool, typer.Option("--debug", help="Log what a trainer raised, too; its text may quote data.")
    ] = False,
) -> None:
    """Take part in rounds until stopped by Ctrl-C or SIGTERM; nothing is lost by either."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # What it would print, the log says in words.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # A loader's workers never use the connection.
    from secagg import logs
    from secagg.heap import keep_freed_memory
    from silo.config import SiloConfig

    sys.dont_write_bytecode = True  # Nothing is written outside the state folder.

    logs.configure(log_level, extra="silo")
    settings = SiloConfig.load(config)
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))  # Read when an app loads torch.

    from silo.agent import Agent

    keep_freed_memory()
    with Agent(settings, debug=debug) as agent:
        _run(agent)


def _run(agent: Agent) -> None:
    import asyncio
    import signal

    stopped: list[signal.Signals] = []

    async def take_part() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(by: signal.Signals) -> None:
            stopped.append(by)
            if task is not None:
                task.cancel()

        for by in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(by, stop, by)
        try:
            await agent.run()
        except asyncio.CancelledError:
            if not stopped:
                raise

    asyncio.run(take_part())
    if stopped and stopped[0] is signal.SIGINT:
        raise typer.Exit(EXIT_STOPPED)


@app.command()
def check(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL.py[:NAME]]",
            help="Look at this model instead: can it be trained with differential privacy? The file is run.",
            show_default=False,
        ),
    ] = None,
    *,
    config: Config = SILO_TOML,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write MODEL_private.py, which replaces what does not fit.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write it over one that is there.")] = False,
) -> None:
    """Look at everything that a run needs, and say what to do about what is missing."""
    if model is not None:
        _check_model(model, fix=fix, force=force)
        return
    if fix or force:
        raise typer.BadParameter("only with a model: silo check MODEL.py --fix", param_hint="--fix, --force")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from secagg.errors import exit_code
    from silo.checks import findings

    verdicts = []
    for finding in findings(config):
        word = "ok    " if finding.error is None else "failed"
        typer.echo(f"{word}  {finding.name}: {finding.text}")
        if finding.error is not None:
            verdicts.append(exit_code(finding.error))
    if verdicts:
        raise typer.Exit(verdicts[0])


def _check_model(spec: str, *, fix: bool, force: bool) -> None:
    from secagg.errors import ParameterError, exit_code

    sys.dont_write_bytecode = True  # Nothing is written beside the model but what was asked for.
    from silo.dp_layers import FINE
    from silo.model_check import ModelFile

    file = ModelFile.load(spec)
    found = file.misfits
    for misfit in found:
        typer.echo(misfit)
    if not found:
        typer.echo(FINE)
    elif fix:
        typer.echo(f"{file.fix(force=force)}  {FINE}")
    else:
        raise typer.Exit(exit_code(ParameterError("")))


@app.command()
def initial(
    *,
    config: Config = SILO_TOML,
    app: Annotated[str, typer.Option("--app", help="package.module:function, approved here.")],
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Same seed, same weights.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("initial.safetensors"),
) -> None:
    """Write the first weights of a job, which the app's trainer makes."""
    from silo.app import Apps
    from silo.config import SiloConfig
    from silo.initial import write_initial

    settings = SiloConfig.load(config)
    trainer = Apps(settings.name, settings.policy.apps, settings.data.arguments).trainer(app)
    length = write_initial(out, settings.name, trainer, seed=seed)
    typer.echo(f"{out}  {length} weights")


app.command()(psi)


@apps.command("hash")
def hash_app(
    app: Annotated[str, typer.Argument(metavar="APP", help="package.module:function")],
) -> None:
    """Print the hash of an app's source, for [policy.apps]; read the source before you approve it."""
    from silo.app import source_hash

    typer.echo(source_hash(app))


@rosters.command("show")
def show_roster(*, config: Config = SILO_TOML) -> None:
    """Print the fingerprints to compare with each silo by telephone."""
    from secagg.hazmat.identity import fingerprint, grouped
    from silo.config import SiloConfig

    _, roster = SiloConfig.load(config).member()
    for silo, key in roster.members:
        typer.echo(f"{fingerprint(key)}  {silo}")
    typer.echo(f"{grouped(roster.digest[:16])}  the whole roster")


@rosters.command("pin")
def pin_roster(*, config: Config = SILO_TOML) -> None:
    """Take the roster file in the place of the roster that is pinned, once its changes are confirmed."""
    from secagg.hazmat.identity import grouped
    from silo.config import SiloConfig
    from silo.journal import Journal

    settings = SiloConfig.load(config)
    _, roster = settings.member()
    with Journal(settings.state, roster=roster.digest, pin=True):
        typer.echo(f"{grouped(roster.digest[:16])}  is pinned: {', '.join(roster.silos)}")


@keys.command("list")
def list_keys(*, config: Config = SILO_TOML) -> None:
    """Print what is to be known of each key; nothing of it is secret."""
    from secagg.keys.document import audit_line
    from silo.config import SiloConfig
    from silo.key_files import KeyFiles

    held = KeyFiles(SiloConfig.load(config).state / "keys").read()
    for key in held:
        typer.echo(audit_line(key.document))
    if not held:
        typer.echo("no key; an operator of the coordinator lets the silos make one: coordinator key make")


@models.command("list")
def list_models(*, config: Config = SILO_TOML) -> None:
    """Print one line for each model: its job, what is in it, and its file."""
    from secagg.report import plural
    from silo.config import SiloConfig
    from silo.model_files import ModelFiles

    files = ModelFiles(SiloConfig.load(config).state)
    cards = files.cards()
    for card in cards:
        rounds = plural(card.rounds, "round")
        typer.echo(
            f"{card.job}  {card.scheme}  {rounds}, {card.parameters:,} weights  {files.folder / card.file}"
        )
    if not cards:
        typer.echo("no model; one is written here with every sum that an encrypted run opens")


@models.command("show")
def show_model(
    job: Annotated[str, typer.Argument(metavar="JOB", help="As `silo model list` prints it.")],
    *,
    config: Config = SILO_TOML,
) -> None:
    """Print what made a model: the metrics of each sum, and who could have read one update."""
    from silo.config import SiloConfig
    from silo.model_files import ModelFiles, describe

    files = ModelFiles(SiloConfig.load(config).state)
    typer.echo(describe(files.card(job), files.folder))


@ledgers.command("show")
def show_ledger(*, config: Config = SILO_TOML) -> None:
    """Print one line for each run: date, rounds, epsilon, total, left."""
    from silo.config import SiloConfig
    from silo.ledger_view import shown

    typer.echo(shown(SiloConfig.load(config)))


@ledgers.command("export")
def export_ledger(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not be there.")],
    *,
    config: Config = SILO_TOML,
) -> None:
    """Write the ledger and its signed head for an auditor."""
    from silo.config import SiloConfig
    from silo.ledger_export import export_text, write_export
    from silo.ledger_view import read_ledger, summary

    settings = SiloConfig.load(config)
    identity, _ = settings.member()
    lines, ledger = read_ledger(settings)
    write_export(file, export_text(identity, settings.name, lines.nonce, ledger))
    typer.echo(f"{file}  {summary(ledger)}")


@ledgers.command("trust")
def trust_ledger(
    silo: Annotated[str, typer.Argument(metavar="SILO", help="Whose ledger was put back.")],
    *,
    config: Config = SILO_TOML,
) -> None:
    """Accept the ledgers of another silo again, once its operator has put the newest copy in its place."""
    from secagg.errors import ParameterError
    from secagg.records import LedgerTrusted
    from silo.config import SiloConfig
    from silo.journal import Journal

    settings = SiloConfig.load(config)
    _, roster = settings.member()
    if silo not in roster:
        raise ParameterError(f"there is no silo {silo} in the roster; it has {', '.join(roster.silos)}")
    with Journal(settings.state, roster=roster.digest) as journal:
        journal.sync([LedgerTrusted(silo)])
    typer.echo(f"{silo}  its ledgers are taken as they are in the next round")


@ledgers.command("verify")
def verify_ledger(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `silo ledger export` wrote it.")],
    *,
    roster: Annotated[Path | None, typer.Option("--roster", help="roster.toml, for the signature.")] = None,
) -> None:
    """Check an export: chain, numbers, times and, with the roster, who signed its head."""
    from secagg.operator_files import read_text
    from secagg.roster_file import parse_roster
    from silo.ledger_export import read_export
    from silo.ledger_view import table

    export = read_export(file)
    if roster is not None:
        export.check_signed(parse_roster(read_text(roster), str(roster)))
    typer.echo(table(export.ledger))
    typer.echo("")
    signed = f"signed by {export.silo}" if roster else "signature not checked: add --roster roster.toml"
    typer.echo(f"every line is as it was written; {signed}")


if __name__ == "__main__":
    main()
