"""What a running federation shows: one line for each opened sum, and a live table above a terminal's prompt.

A federation tells an ``Observer`` what happens and never prints. ``Progress`` draws it: a table of silos
and phases with a bar of rounds in a terminal or a notebook, and only the lines anywhere else, so that a
log file stays readable. It shows phases and opened figures; nothing of one silo but where it stands.
"""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from secagg.names import SiloId
from secagg.report import METRIC_DIGITS, RoundReport, metric_text, out_of_range, plural, size

State: TypeAlias = Literal["waiting", "working", "done", "lost"]

TABLE_ROWS = 16
"""With more silos than this, one row counts them instead of one row for each."""

_NO_BREAK = "\N{NO-BREAK SPACE}"
_NARROWEST = 24
_NOTEBOOK_SECONDS = 0.2  # A notebook redraws a whole cell for each update; five a second are plenty.


class Observer(AbstractContextManager["Observer"], Protocol):
    """What a federation calls as it runs. Entered once before the first call, left when the run ends."""

    def run_started(self, silos: Sequence[SiloId], phases: Sequence[str], *, rounds: int) -> None:
        """The run begins: who takes part, the phases of its scheme in order, how many rounds are asked."""
        ...

    def round_started(self, round_number: int, *, attempt: int = 1) -> None:
        """An attempt begins; every silo waits. ``round_number`` is ``rounds + 1`` for the final metrics."""
        ...

    def silo_phase(self, silo: SiloId, phase: str, state: State) -> None:
        """A silo entered, finished or was lost in a phase."""
        ...

    def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        """A sum was opened; ``metrics`` are those of the model that the round started from."""
        ...


class PhaseWatcher:
    """Tells an observer of runs what happens in one round.

    Args:
        observer: who is told.
        number: of the round.
        phases: which are told of; voids and the opened sum are no phase of a silo's work.
    """

    def __init__(self, observer: Observer, number: int, phases: tuple[str, ...]) -> None:
        self._observer = observer
        self._number = number
        self._phases = phases

    def attempt_started(self, attempt: int) -> None:
        """Tell of an attempt after the first."""
        if attempt > 1:
            self._observer.round_started(self._number, attempt=attempt)

    def silo_working(self, silo: SiloId, phase: str) -> None:
        """Tell that a silo works."""
        self._tell(silo, phase, "working")

    def silo_replied(self, silo: SiloId, phase: str) -> None:
        """Tell that a silo replied."""
        self._tell(silo, phase, "done")

    def silo_lost(self, silo: SiloId, phase: str) -> None:
        """Tell that a silo was lost."""
        self._tell(silo, phase, "lost")

    def _tell(self, silo: SiloId, phase: str, state: State) -> None:
        if phase in self._phases:
            self._observer.silo_phase(silo, phase, state)


class Silent:
    """An observer that shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run_started(self, silos: Sequence[SiloId], phases: Sequence[str], *, rounds: int) -> None:
        """Show nothing."""

    def round_started(self, round_number: int, *, attempt: int = 1) -> None:
        """Show nothing."""

    def silo_phase(self, silo: SiloId, phase: str, state: State) -> None:
        """Show nothing."""

    def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        """Show nothing."""


class Progress:
    """Draw a run for people.

    Args:
        console: where to; None for standard output, or the cell of a notebook.

    Guarantees:
        One line for each opened sum, wherever it is drawn.
        Without a terminal or notebook there are no control sequences and nothing is drawn twice.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._board = Board((), (), rounds=0)
        self._live: Live | _Cell | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def run_started(self, silos: Sequence[SiloId], phases: Sequence[str], *, rounds: int) -> None:
        """Begin to draw."""
        self._board = Board(silos, phases, rounds=rounds)
        if self._console.is_jupyter:
            self._live = _Cell(self._board)
        elif self._draws():
            # Transient: the lines stay on the screen, the table goes when the run ends.
            self._live = Live(self._board, console=self._console, refresh_per_second=10, transient=True)
        if self._live is not None:
            self._live.start()

    def round_started(self, round_number: int, *, attempt: int = 1) -> None:
        """Clear the table for a new attempt."""
        self._board.begin(round_number, attempt)
        self._changed()

    def silo_phase(self, silo: SiloId, phase: str, state: State) -> None:
        """Move one cell of the table."""
        self._board.move(silo, phase, state)
        self._changed()

    def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        """Print the line of the opened sum."""
        self._board.finish(report)
        # A file gets one line whatever its length.
        width = self._console.width if self._console.is_terminal else None
        self._console.print(line(report, metrics, rounds=self._board.rounds, width=width), soft_wrap=True)
        self._changed()

    def _draws(self) -> bool:
        # The table's marks and bar are not ASCII; a terminal that cannot show them gets the lines.
        terminal = self._console
        return terminal.is_terminal and not terminal.is_dumb_terminal and not terminal.options.ascii_only

    def _changed(self) -> None:
        if isinstance(self._live, _Cell):
            self._live.refresh()


def line(report: RoundReport, metrics: Mapping[str, float], *, rounds: int, width: int | None = None) -> str:
    """Return the one line that an opened sum leaves behind.

    The metrics of a sum are those of the model that its round started from; the line says so.

    Args:
        report: of the sum.
        metrics: that it carried.
        rounds: asked for.
        width: wrap at so many characters, where words allow, with what follows under the metrics; None does
            not wrap.
    """
    of_all = f"{report.round:>{len(str(rounds))}}/{rounds}"
    title = f"round {of_all}" if report.kind == "train" else "final".ljust(len(f"round {of_all}"))
    silos = f"{len(report.survivors)} of {report.n} silos"
    parts = [
        title,
        silos,
        f"{size(sum(report.bytes_up.values()))} up",
        f"{sum(report.seconds.values()):.2f} s",
    ]
    indent = len("  ".join(parts)) + 2
    if metrics:
        measured = "at the start" if report.round == 1 else f"after round {report.round - 1}"
        error = report.metric_error
        shown = ", ".join(f"{name}{_NO_BREAK}{metric_text(value, error)}" for name, value in metrics.items())
        parts.append(f"{measured}: {shown}" + (f" (± {error:.1e})" if error and _cuts(error) else ""))
    if report.saturated:
        parts.append(out_of_range(report.saturated))
    if report.dropouts:
        parts.append("lost " + ", ".join(report.dropouts))
    text = "  ".join(parts)
    if width is not None:
        text = textwrap.fill(
            text,
            width,
            # A column narrower than this holds hardly one metric.
            subsequent_indent=" " * (indent if width - indent >= _NARROWEST else 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return text.replace(_NO_BREAK, " ")


def _cuts(error: float) -> bool:
    """Whether ``error`` takes digits from a metric; where it does not, it need not be said on every line."""
    return 2 * error > 10.0**-METRIC_DIGITS


class Board(JupyterMixin):
    """The table of silos and phases, and the bar of rounds, as something rich can draw at any moment.

    Args:
        silos: rows, in roster order.
        phases: columns, in the order of the protocol.
        rounds: rounds asked for.
    """

    def __init__(self, silos: Sequence[SiloId], phases: Sequence[str], *, rounds: int) -> None:
        self.rounds = rounds
        self._silos, self._phases = tuple(silos), tuple(phases)
        self._completed = 0
        self._title = "starting"
        self._started = time.monotonic()
        self._spinner = Spinner("dots", style="cyan")
        self._states: dict[tuple[SiloId, str], State] = {}

    def begin(self, round_number: int, attempt: int) -> None:
        """Start an attempt: nobody has done anything."""
        self._title = (
            f"round {round_number} of {self.rounds}" if round_number <= self.rounds else "final metrics"
        )
        if attempt > 1:
            self._title += f", attempt {attempt}"
        self._states = {}

    def move(self, silo: SiloId, phase: str, state: State) -> None:
        """Set one cell."""
        self._states[silo, phase] = state

    def finish(self, report: RoundReport) -> None:
        """Count a finished round."""
        if report.kind == "train":
            self._completed = report.round

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = _MARKS | {"working": self._spinner}
        table = Table(box=box.SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
        table.add_column("silo", overflow="ellipsis", no_wrap=True, max_width=16, vertical="bottom")
        for phase in self._phases:
            # AdvertiseKeys becomes two short lines, so that six phases and a name fit 80 columns.
            table.add_column(re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", phase), justify="center", vertical="bottom")
        for name, cells in self._rows(marks):
            table.add_row(name, *cells)
        yield table
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=max(self.rounds, 1), completed=self._completed, width=30),
            Text(f"{self._completed}/{self.rounds}"),
            Text(_clock(time.monotonic() - self._started), style="dim"),
        )
        yield bar

    def _rows(self, marks: Mapping[State, Text | Spinner]) -> Iterator[tuple[str, list[Text | Spinner]]]:
        if len(self._silos) > TABLE_ROWS:
            yield plural(len(self._silos), "silo"), [Text(str(self._count(p, "done"))) for p in self._phases]
            yield "lost", [Text(str(self._count(p, "lost") or ""), style="red") for p in self._phases]
            return
        for silo in self._silos:
            states = [self._states.get((silo, phase), "waiting") for phase in self._phases]
            # Nothing is awaited of a silo once it is lost.
            alive = states[: states.index("lost") + 1] if "lost" in states else states
            yield silo, [marks[state] for state in alive]

    def _count(self, phase: str, state: State) -> int:
        return sum(self._states.get((silo, phase)) == state for silo in self._silos)


class _Cell:
    """A notebook cell that shows the board: IPython's own display update, which a saved notebook keeps."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._handle: Any = None
        self._drawn = 0.0

    def start(self) -> None:
        from IPython.display import display

        self._handle = display(self._board, display_id=True)  # type: ignore[no-untyped-call]

    def refresh(self) -> None:
        if time.monotonic() - self._drawn >= _NOTEBOOK_SECONDS:
            self._draw()

    def stop(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._handle.update(self._board)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


_MARKS: dict[State, Text | Spinner] = {
    "waiting": Text("·", style="dim"),
    "done": Text("✓", style="green"),
    "lost": Text("✗ lost", style="red"),
}
