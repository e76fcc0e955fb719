"""Since when each silo is connected or away, for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from coordinator.lines import Lines
from secagg.names import SiloId


class Presence:
    """Watches the lines; ``watch`` runs as long as the process does."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._connected: frozenset[SiloId] = frozenset()
        now = datetime.now(UTC)
        self._since = dict.fromkeys(lines.roster.silos, now)

    async def watch(self) -> None:
        """Note who comes and goes."""
        while True:
            self._note()
            await self._lines.change()

    def shown(self) -> Iterator[tuple[SiloId, bool, datetime]]:
        """Yield each silo of the roster, whether it is connected, and since when it is or is not."""
        self._note()
        for silo in self._lines.roster.silos:
            yield silo, silo in self._connected, self._since[silo]

    def _note(self) -> None:
        now = self._lines.connected
        for silo in now ^ self._connected:
            self._since[silo] = datetime.now(UTC)
        self._connected = now
