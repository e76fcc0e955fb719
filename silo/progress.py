"""How far what silos do together is, for whoever typed it: lines, on a terminal one live line below them."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

from secagg.names import SiloId
from secagg.report import size
from silo.meeting import Progress

WIDTH = 10
QUIET = 5.0
"""Seconds between two lines about one thing that goes on, where there is no terminal."""


class Telling:
    """Tells of progress.

    Args:
        console: where.
        stopped: what whoever stops it by Ctrl-C can do then.
        clock: seconds.

    Guarantees:
        Without a terminal there are no control sequences.
        It shows numbers of points and bytes, names and states, and nothing of the data.
    """

    def __init__(
        self, console: Console, *, stopped: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._stopped = stopped
        self._clock = clock
        self._live: Status | None = console.status("") if console.is_terminal else None
        self._last = ("", -QUIET)
        self._seen: tuple[str, tuple[SiloId, ...]] = ("", ())
        self._points = 0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if kind is KeyboardInterrupt:
            self.say("stopped", self._stopped)

    def say(self, word: str, text: str) -> None:
        """Say something that stays."""
        self._console.print(f"{word:<{WIDTH}}{text}", highlight=False, soft_wrap=True, markup=False)

    def moved(self, word: str, text: str) -> None:
        """Say how far something is that goes on: live, or now and then."""
        if self._live is not None:
            self._live.update(f"{word:<{WIDTH}}{text}")
        elif word != self._last[0] or self._clock() - self._last[1] >= QUIET:
            self._last = word, self._clock()
            self.say(word, text)

    def points(self, count: int) -> None:
        """Note that so many points of the intersection were computed."""
        self._points += count
        self.moved("finding", f"{self._points:,} points computed")

    def show(self, text: str) -> None:
        """Print a text as it stands."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def watch(self, progress: Progress) -> None:
        """Say how the meeting is; see ``silo.meeting.Watch``."""
        if progress.state == "at work":
            traffic = sum(progress.sent.values()), sum(progress.received.values())
            if self._live is not None:
                self._live.update(f"{'sealed':<{WIDTH}}{size(traffic[0])} sent, {size(traffic[1])} received")
        elif (progress.state, progress.missing) != self._seen:
            if progress.state == "waiting":
                self.say("waiting", f"for {', '.join(progress.missing) or 'all to meet again'}")
            elif progress.state == "ending" and self._live is not None:
                self._live.update(f"{'ending':<{WIDTH}}the others keep what came out")
        self._seen = progress.state, progress.missing
