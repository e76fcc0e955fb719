"""The command ``secagg``: see the protocol at work, read what a word means, know what a run will cost.

It opens no connection and reads no file; nothing here is needed to use the library. What is heavy loads
inside the command that needs it, so that ``secagg --help`` stays under 0.3 s (``benchmarks/startup.py``).
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from secagg.console import EXIT_BUG, new_app

if TYPE_CHECKING:
    from secagg.names import SiloId, WordBits
    from secagg.rounds.driver import Phase

SILOS = ("airport", "borough", "central", "docklands", "eastside", "forest")
LOST: dict[SiloId, Phase] = {"docklands": "MaskedInput", "forest": "Unmasking"}
CLIP = 1.0


app = new_app("secagg", "Sums over silos, and models learned from them, that show no single silo.")
privacy = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Say what differential privacy would cost a model."
)
app.add_typer(privacy, name="privacy")


def main() -> None:
    """Run the command line; the entry point of the console script."""
    app(prog_name="secagg")


@app.command()
def demo(
    *,
    length: Annotated[int, typer.Option(min=1, max=100_000_000, help="Entries of a vector.")] = 1_000_000,
) -> None:
    """Add six vectors that nobody sees, losing two silos on the way."""
    import time

    import numpy as np
    from rich.console import Console

    from secagg.learning.panel import panel
    from secagg.masking.params import Masking
    from secagg.sums import secure_sum

    grid = np.linspace(0.0, 6.0, length)
    vectors = {silo: CLIP * np.sin(grid + slot) for slot, silo in enumerate(SILOS)}
    result = secure_sum(vectors, scheme=Masking(), clip=CLIP, dropouts=dict(LOST), timer=time.perf_counter)
    clear = np.sum([vectors[silo] for silo in result.survivors], axis=0)
    difference = float(np.max(np.abs(result.total - clear)))

    console = Console(width=_width(), highlight=False)
    if console.is_terminal:
        console.print(panel(result.report))
    else:
        typer.echo(result.report.text(width=_width()) + "\n")
    typer.echo(f"sum of {', '.join(result.survivors)}")
    typer.echo(f"  opened   {_sample(result.total)}")
    typer.echo(f"  in clear {_sample(clear)}")
    typer.echo(f"  largest difference {difference:.1e}; rounding allows {result.report.worst_error:.1e}")
    if difference > result.report.worst_error:
        typer.echo("the opened sum is wrong")
        raise typer.Exit(EXIT_BUG)


@app.command()
def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORD",
            help="An error's code (SA-dddd) or class, a scheme, a strategy, a term; none lists all of them.",
        ),
    ] = None,
    *,
    silos: Annotated[int | None, typer.Option(help="A scheme, for so many silos.")] = None,
    colluders: Annotated[int | None, typer.Option(help="And so many that may collude.")] = None,
    parameters: Annotated[int | None, typer.Option(help="And vectors of so many entries.")] = None,
) -> None:
    """Say what an error, a scheme, a strategy or a word of a report means."""
    from secagg.errors import UsageError
    from secagg.topics import answer, configuration, contents

    word = " ".join(words or ())
    if silos is not None:
        typer.echo(
            configuration(word, silos=silos, colluders=colluders, parameters=parameters, width=_width())
        )
    elif colluders is not None or parameters is not None:
        raise UsageError(
            f"--colluders and --parameters go with --silos: secagg explain {word or 'masking'} --silos 5"
        )
    else:
        typer.echo(answer(word, width=_width()) if words else contents(width=_width()))


@app.command()
def estimate(
    *,
    parameters: Annotated[int, typer.Option(help="Entries of a vector.")],
    silos: Annotated[int, typer.Option(help="Of the roster.")],
    word_bits: Annotated[int, typer.Option(help="Of one encoded entry, 32 or 64.")] = 32,
    rounds: Annotated[int, typer.Option(help="Sums that are opened.")] = 1,
) -> None:
    """Say what a run would cost under every scheme: bytes, CPU time, memory."""
    from secagg import estimates

    word = cast("WordBits", word_bits)  # Any other number is refused there.
    result = estimates.estimate(parameters, silos, word_bits=word, rounds=rounds)
    typer.echo(result.text(width=_width()))


@privacy.command()
def plan(
    *,
    rows: Annotated[int, typer.Option(help="Of each silo.")],
    silos: Annotated[int, typer.Option(help="Of the roster.")],
    rounds: Annotated[int, typer.Option(help="Mean updates that share epsilon.")],
    epsilon: Annotated[float, typer.Option(help="For all rounds together.")],
    delta: Annotated[
        float | None, typer.Option(help="A tenth of 1 / rows, at most 1e-5, if not given.")
    ] = None,
    parameters: Annotated[int, typer.Option(help="Entries of the model.")] = 1_000_000,
    clip: Annotated[float, typer.Option(help="L2 norm to which a gradient or an update is cut.")] = 1.0,
    batch: Annotated[
        int | None, typer.Option(help="Rows of a silo in a step; a twentieth if not given.")
    ] = None,
    colluders: Annotated[int | None, typer.Option(help="Silos that may collude.")] = None,
) -> None:
    """Say how much noise each way to add it needs, what that does to a model, and what changes it."""
    from secagg.privacy import recommendation

    result = recommendation.plan(
        rows,
        silos,
        rounds,
        epsilon,
        delta=delta,
        parameters=parameters,
        clip=clip,
        batch=batch,
        colluders=colluders,
    )
    typer.echo(result.text(width=_width()))


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 110)


def _sample(vector: Any) -> str:
    return " ".join(f"{value:+.6f}" for value in vector[:6]) + (" ..." if len(vector) > 6 else "")
