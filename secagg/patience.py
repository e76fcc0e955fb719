"""How long one party is waited for on behalf of another, where whoever notes the wait has no clock."""

from __future__ import annotations

from secagg.names import SiloId


class Patience:
    """Waits by name; each begins without a clock, and its time counts from the next look at one.

    Args:
        seconds: how long each wait lasts.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[SiloId, float | None] = {}

    @property
    def alarm(self) -> float | None:
        """When the first wait is over; None if there is none, or no clock was looked at yet."""
        return min((end for end in self._ends.values() if end is not None), default=None)

    def lasts(self, name: SiloId) -> bool:
        """Whether the wait of ``name`` began and is not over."""
        return name in self._ends

    def begin(self, name: SiloId) -> None:
        """Begin a wait, or begin it anew."""
        self._ends[name] = None

    def end(self, name: SiloId) -> None:
        """End a wait, if there is one."""
        self._ends.pop(name, None)

    def over(self, now: float) -> list[SiloId]:
        """End the waits whose time has come, and return their names."""
        for name, end in self._ends.items():
            if end is None:
                self._ends[name] = now + self._seconds
        over = [name for name, end in self._ends.items() if end is not None and now >= end]
        for name in over:
            del self._ends[name]
        return over
