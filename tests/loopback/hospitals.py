"""A development federation with trainers at its silos, which speak to a real coordinator over mutual TLS."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from coordinator.authority import Authority
from coordinator.client import Coordinator
from coordinator.config import CoordinatorConfig
from coordinator.development import write_development_federation
from coordinator.server import Serving, serving
from secagg import wire
from secagg.address import split_address
from secagg.hazmat.identity import IdentityKey
from secagg.learning.federation import Federation
from secagg.learning.history import History
from secagg.learning.workload import LearningWorkload
from secagg.messages import FromCoordinator
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.policy import Policy
from secagg.records import SiloRecord
from secagg.roster import Roster
from secagg.rounds.silo import Participant
from secagg.simulation import SimulatedSilo
from tests.learners import WEIGHTS, Line, lines
from tests.loopback.world import Service, Speaker, speak

APP = "hospital.training:trainer"
INITIAL = np.linspace(-1.0, 1.0, WEIGHTS)
FLOORS = Policy(min_weight_cap=1000.0)
SETTINGS: dict[str, Any] = {
    "seed": 7,
    "metrics": ["loss"],
    "weight_cap": 1000.0,
    "least_total_weight": 100.0,
    "initial": INITIAL,
}


class Watched(SimulatedSilo):
    """A silo; ``before`` sees every message before the silo does."""

    before: Callable[[FromCoordinator], None] = staticmethod(lambda message: None)

    def deliver(self, frame: Frame) -> Frame | None:
        self.before(wire.decode_from_coordinator(*frame))
        return super().deliver(frame)


@dataclass
class Hospitals:
    """All that is needed to run a coordinator and its silos.

    Attributes:
        trainers: of the silos; they count how often they train.
    """

    folder: Path
    roster: Roster
    trainers: Mapping[SiloId, Line]
    silos: dict[SiloId, Watched]
    speakers: dict[SiloId, Speaker] = field(default_factory=dict)

    @property
    def config(self) -> CoordinatorConfig:
        return CoordinatorConfig.load(self.config_file)

    @property
    def config_file(self) -> Path:
        return self.folder / "coordinator" / "coordinator.toml"

    @property
    def state(self) -> Path:
        return self.folder / "coordinator" / "state"

    def person(self, role: str = "scientist") -> Coordinator:
        return Coordinator(credentials=self.folder / role)

    def federation(self, coordinator: Coordinator, **changes: Any) -> Federation:
        return Federation(silos=coordinator, **{"app": APP} | SETTINGS | changes)

    def local(self, rounds: int, **changes: Any) -> History:
        """Return what the same silos give in one process."""
        fresh = lines(len(self.trainers))
        return Federation(silos=fresh, **SETTINGS | changes).run(rounds, progress=False)

    def connect(self, lines: Any = None, *, silos: Iterable[SiloId] | None = None) -> None:
        """Start the silos' ends of their lines; they connect as soon as somebody listens."""
        _, port = split_address(self.config.listen)
        service = Service(port, lines, Authority.load(self.folder / "authority"), self.speakers)
        chosen = self.silos if silos is None else {silo: self.silos[silo] for silo in silos}
        speak(service, self.roster, chosen)

    async def disconnect(self) -> None:
        for speaker in self.speakers.values():
            await speaker.stop()


def hospitals(
    folder: Path,
    n: int = 4,
    *,
    spoiled: Mapping[SiloId, Any] | None = None,
    policies: Mapping[SiloId, Policy] | None = None,
) -> Hospitals:
    """Write the files of a federation of ``n`` silos and return it."""
    trainers = lines(n, spoiled)
    roster = write_development_federation(
        folder, tuple(trainers), hosts=("localhost", "127.0.0.1"), listen=f"127.0.0.1:{free_port()}"
    )

    def silo(name: SiloId) -> Watched:
        key = load_pem_private_key((folder / "silos" / name / "identity.pem").read_bytes(), None)
        identity = IdentityKey.from_private_bytes(key.private_bytes_raw())  # type: ignore[union-attr]
        workload = LearningWorkload(name, trainers[name])
        cache: dict[bytes, Any] = {}

        def build(records: Iterable[SiloRecord]) -> Participant:
            return Participant(
                name,
                identity=identity,
                roster=roster,
                policy=(policies or {}).get(name, FLOORS),
                workload=workload,
                records=records,
                cache=cache,
                threads=1,
            )

        return Watched(build)

    return Hospitals(folder, roster, trainers, {name: silo(name) for name in trainers})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running(
    here: Hospitals, *, silos: Iterable[SiloId] | None = None
) -> AsyncIterator[tuple[Serving, Coordinator]]:
    """Serve, with silos connected or about to be, and a scientist's client."""
    async with serving(here.config) as serves:
        here.connect(serves.lines, silos=silos)
        with here.person() as coordinator:
            try:
                yield serves, coordinator
            finally:
                await here.disconnect()
