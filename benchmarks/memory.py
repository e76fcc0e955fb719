"""Memory of the coordinator: a process of its own runs its session, the silos run in this one.

Uploads are spooled to a file and read back in pieces, as the service does. What is read is the peak of the
resident set, by the kernel's account, above that of the same process before the attempt opened.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.machine import Stopwatch
from benchmarks.rounds import Federation, drive
from secagg import wire
from secagg.masking.coordinator import MaskingCoordinator
from secagg.messages import FromCoordinator, FromSilo, MaskedInput
from secagg.names import SiloId
from secagg.payload import PIECE_SIZE, Payload
from secagg.roster import Roster
from secagg.terms import Terms


@dataclass(frozen=True)
class Peak:
    """Bytes resident before the attempt opened, and at most."""

    idle: int
    peak: int


def measure(federation: Federation, dropouts: frozenset[SiloId]) -> Peak:
    """Run one round with the coordinator in a fresh process and return what that process held."""
    sessions = {silo: federation.session(silo) for silo in federation.roster.silos}
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / "upload"
        arguments = (there, spool, federation.roster, federation.terms, dropouts)
        process = context.Process(target=_coordinate, args=arguments, daemon=True)
        process.start()
        there.close()
        while isinstance(asked := here.recv(), str):
            header, size = here.recv_bytes(), here.recv()
            payload = b"".join(here.recv_bytes() for _ in range(0, size, PIECE_SIZE))
            message = wire.decode_from_coordinator(header, memoryview(payload) if size else None)
            reply, vector = sessions[asked].receive(message).output, None
            if isinstance(reply, MaskedInput):
                vector = (reply.round_id, reply.vector.dtype, reply.vector.length, reply.vector.digest)
                spool.write_bytes(reply.vector.buffer()[:])
            here.send(vector)
            if vector is None:
                here.send(None if reply is None else wire.encode(reply)[0])
        process.join()
    if not isinstance(asked, Peak):
        raise RuntimeError("the coordinator's process ended early")  # noqa: TRY004 - not a matter of types
    return asked


def _coordinate(
    silos: Connection, spool: Path, roster: Roster, terms: Terms, dropouts: frozenset[SiloId]
) -> None:
    def reply(silo: SiloId, message: FromCoordinator, step: str) -> FromSilo | None:
        del step
        header, payload = wire.encode(message)
        silos.send(silo)
        silos.send_bytes(header)
        silos.send(0 if payload is None else len(payload))
        for start in range(0, 0 if payload is None else len(payload), PIECE_SIZE):
            silos.send_bytes(payload[start : start + PIECE_SIZE])  # type: ignore[index]
        vector = silos.recv()
        if vector is not None:
            round_id, dtype, length, digest = vector
            return MaskedInput(round_id, Payload(dtype, length, lambda: _pieces(spool), digest=digest))
        header = silos.recv()
        return None if header is None else wire.decode_from_silo(header)

    coordinator = MaskingCoordinator(roster, terms=terms, attempt=1, seconds=3600.0)
    idle = _resident("VmRSS")
    drive(coordinator, reply, dropouts, Stopwatch())
    silos.send(Peak(idle, _resident("VmHWM")))


def _pieces(spool: Path) -> Iterator[memoryview]:
    with spool.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_SIZE):
            yield memoryview(piece)


def _resident(name: str) -> int:
    """Return a size of this process in bytes, by its name in the kernel's status file."""
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
