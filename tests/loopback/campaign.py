"""Many rounds of one federation over one service, in each of which one silo misbehaves on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
from msgspec.structs import replace

from coordinator.lines import GRACE
from coordinator.rounds import run_round
from secagg.errors import MalformedMessage, SecaggError
from secagg.fixedpoint import Encoding, Segment
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.driver import RoundDriver
from secagg.rounds.memory import Memory
from secagg.session import Aggregate
from tests.federations import Federation
from tests.loopback.world import Service, Speaker, serving, speak

LENGTH = 539_999
"""Entries: an upload is more than 1 MiB, so it is spooled, and five pieces; its bytes are whole words
of 8, with the count entry."""
SECONDS = 10.0
SHORT_GRACE = min(GRACE, 0.3)


class Campaign:
    """Rounds one after the other."""

    def __init__(self, service: Service, federation: Federation, folder: Path) -> None:
        self.service = service
        self.federation = federation
        self.folder = folder
        self.round = 0
        self.memory = Memory()
        self.speakers = speak(service, federation.roster, federation.silos)

    @property
    def silos(self) -> tuple[SiloId, ...]:
        return self.federation.roster.silos

    async def ready(self) -> None:
        """Return when every silo is connected."""
        while self.service.lines.connected != frozenset(self.silos):
            await self.service.lines.change()

    async def leave(self, silo: SiloId) -> None:
        """End the process of ``silo``, if its own lies have not ended it."""
        with suppress(MalformedMessage):
            await self.speakers[silo].stop()

    async def begin_again(self, silo: SiloId) -> Speaker:
        """Let ``silo`` restart as an honest process."""
        await self.leave(silo)
        self.federation.silos[silo].restart()
        speaker = Speaker(self.service, silo, self.federation.roster, self.federation.silos[silo].deliver)
        self.speakers[silo] = speaker.start()
        await speaker.connected.wait()
        return speaker

    def next_round(self) -> RoundDriver:
        """Return the driver of a round with a base of its own, which every silo holds."""
        self.round += 1
        base = digest("base", self.round)
        for work in self.federation.work.values():
            work.model = base
            work.applied.clear()  # A sum has megabytes, a campaign thousands of rounds.
        terms = replace(self.federation.terms, round=self.round, base=base)
        coordinator = RoundCoordinator(
            self.federation.roster,
            terms=terms,
            seconds=SECONDS,
            training_seconds=SECONDS,
            threads=1,
            memory=self.memory,
        )
        return RoundDriver(coordinator)

    async def run(self, driver: RoundDriver) -> Aggregate | None:
        """Run a round; None if it was given up."""
        try:
            aggregate = await run_round(driver, self.service.lines, seconds=SECONDS)
        except SecaggError:
            return None
        else:
            assert isinstance(aggregate, Aggregate)
            return aggregate
        finally:
            self.memory = driver.coordinator.memory.next_round()

    def check(self, driver: RoundDriver, aggregate: Aggregate | None, suspect: SiloId) -> None:
        """Whatever ``suspect`` did, the others are not named and their sum is opened exactly."""
        losses = driver.coordinator.losses
        named = {silo for silo, why in losses.items() if why.startswith("faulty")}
        assert named <= {suspect}, f"an honest silo is named: {losses}"
        others = tuple(silo for silo in self.silos if silo != suspect)
        assert aggregate is not None, "no sum is opened"
        assert set(others) <= set(aggregate.survivors), f"an honest silo is lost: {losses}"
        vectors = [self.federation.vectors[silo] for silo in aggregate.survivors]
        expected = np.sum(vectors, axis=0, dtype=np.uint32)
        assert np.array_equal(aggregate.total, expected), "another sum is opened"

    def spooled(self) -> int:
        """Return how many files of the spool are open or mapped; they have no names."""
        where = str(self.folder)
        files = [path for path in Path("/proc/self/fd").iterdir() if where in _target(path)]
        return len(files) + Path("/proc/self/maps").read_text(encoding="utf-8").count(where)


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # It was closed meanwhile.
        return ""


@asynccontextmanager
async def campaign(folder: Path, n: int = 5) -> AsyncIterator[Campaign]:
    """Serve a federation of ``n`` silos, all connected; one that is away is soon given up, and taken back."""
    encoding = Encoding(word_bits=32, cohort=n, weight_cap=1.0, segments=(Segment("sum", LENGTH, 1.0, 20),))
    federation = Federation(n, encoding=encoding)
    with (
        patch("coordinator.lines.GRACE", SHORT_GRACE),
        patch("coordinator.service.BARRED_SECONDS", 0.0),
    ):
        async with serving(federation.roster, folder) as service:
            rounds = Campaign(service, federation, folder)
            await rounds.ready()
            yield rounds
