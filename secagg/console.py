"""What every command line of the project shares: how an error is shown, and which exit code it means.

It knows no command. What is heavy loads when something went wrong.
"""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from secagg import __version__
from secagg.errors import SecaggError, exit_code

EXIT_BUG = 1
EXIT_STOPPED = 130  # What a shell reports for a command that Ctrl-C ended.


class Commands(TyperGroup):
    """Gives whatever a command raises one shape on stderr, and its verdict as the exit code.

    The callback of the app has an option ``debug``, with which the traceback is shown too.
    """

    def invoke(self, ctx: Any) -> Any:  # The context's class moved between releases of typer.
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_STOPPED) from None
        except Exception as error:
            if isinstance(error, typer.Abort | BrokenPipeError) or hasattr(error, "exit_code"):
                raise  # Typer's own: usage errors, exits, a closed pipe.
            verdict, text = _verdict(error, command=ctx.info_name)
            if ctx.params["debug"]:
                traceback.print_exception(error)  # Our errors carry the text as a note.
            else:
                typer.echo(text, err=True)
            raise typer.Exit(verdict) from error


def new_app(command: str, text: str) -> typer.Typer:
    """Return the command line ``command`` without commands, whose ``--help`` says ``text``."""
    app = typer.Typer(
        name=command,
        cls=Commands,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(help=text)(_options)
    return app


def _show_version(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(f"{ctx.info_name} {__version__}")
        raise typer.Exit


def _options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Also show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take what is read elsewhere: ``version`` by its callback, ``debug`` by ``Commands``."""


def _verdict(error: Exception, *, command: str) -> tuple[int, str]:
    from secagg.explanation import annotate

    if isinstance(error, SecaggError):
        return exit_code(error), annotate(error)
    # Its text is not shown: unlike ours, it may quote a data value.
    return EXIT_BUG, f"x an unexpected {type(error).__name__}; `{command} --debug ...` shows where"
