"""The coordinator's process: everything started in order, and stopped so that nothing is lost.

One port for silos, people and health checks, mutual TLS on all of it; nothing else listens.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from coordinator import tls  # Before grpc: it sets what grpc reads when it is imported.
from coordinator.config import CoordinatorConfig
from coordinator.control import CONTROL, ControlService
from coordinator.keys import Keys
from coordinator.lines import Lines
from coordinator.meetings import MeetingService
from coordinator.model_file import unwritable
from coordinator.presence import Presence
from coordinator.runs import Runs
from coordinator.service import SILOS, SiloService
from coordinator.store import Store

import grpc  # isort: skip
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # isort: skip

from secagg.address import split_address
from secagg.channel.relay import MEETINGS
from secagg.errors import EnvironmentFault
from secagg.heap import keep_freed_memory
from secagg.link.options import SERVER_OPTIONS

DRAIN_SECONDS = 30.0
"""How long the present round may take when the process is asked to stop."""
GRACE_SECONDS = 1.0
"""How long calls may take to end after that."""

log = structlog.get_logger("coordinator")


@dataclass(frozen=True)
class Serving:
    """A coordinator that serves.

    Attributes:
        address: ``host:port`` that it listens on.
        store, lines, runs: its parts.
        resumed: the run that goes on from the process before; None if there was none.
    """

    address: str
    store: Store
    lines: Lines
    runs: Runs
    resumed: str | None


@asynccontextmanager
async def serving(config: CoordinatorConfig) -> AsyncIterator[Serving]:
    """Serve until the block is left; a run that is then under way halts and goes on the next time.

    Raises:
        EnvironmentFault: the port is in use; the state folder cannot be written, or another one's.
        TrustError, ParameterError: certificates or the roster are not what they should be.
    """
    roster = config.members()
    credentials = tls.server_credentials(config.tls, federation=config.federation)
    spool = _folder(_folder(config.state) / "spool")
    store = Store(config.state)
    try:
        lines = Lines(roster, spool)
        runs = Runs(
            store,
            lines,
            config.state / "runs",
            federation=config.federation,
            memory_limit=config.memory_limit,
        )
        keys = Keys(store, lines, runs, federation=config.federation)
        presence = Presence(lines)
        healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]  # Its stubs know the other one.
        revoked = config.tls.revoked
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers(
            (
                SiloService(lines, revoked=revoked).handler(),
                MeetingService(roster, revoked=revoked).handler(),
                ControlService(runs, keys, presence, federation=config.federation, revoked=revoked).handler(),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        port = _bind(server, config.listen, credentials)
        noting = asyncio.create_task(presence.watch())
        try:
            # First of all: who watched the run before is back at once, and would watch one that stands still.
            resumed = await runs.resume_interrupted()
            await server.start()
            for name in (SILOS, MEETINGS, CONTROL):
                await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
            address = f"{config.listen.rpartition(':')[0]}:{port}"
            log.info("serving", address=address, silos=roster.n, federation=config.federation)
            yield Serving(address, store, lines, runs, resumed)
        finally:
            await healthy.enter_graceful_shutdown()
            await runs.drain(0.0)
            await server.stop(GRACE_SECONDS)
            noting.cancel()
            with suppress(asyncio.CancelledError):
                await noting
            lines.close()
    finally:
        store.close()


async def serve(config: CoordinatorConfig, ready: Callable[[Serving], None]) -> tuple[signal.Signals, bool]:
    """Serve until SIGTERM or SIGINT; then begin no round, and let the present one finish if it is quick.

    Args:
        config: as loaded.
        ready: told once that it serves.

    Returns:
        The signal, and whether a run was halted by it. A second signal waits for nothing.
    """
    keep_freed_memory()
    loop, came = asyncio.get_running_loop(), asyncio.Queue[signal.Signals]()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, came.put_nowait, one)
    async with serving(config) as here:
        ready(here)
        first = await came.get()
        log.info("stopping", signal=first.name)
        draining = asyncio.create_task(here.runs.drain(DRAIN_SECONDS))
        again = asyncio.create_task(came.get())
        await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            await here.runs.drain(0.0)
        again.cancel()
        return first, await draining


def _folder(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    return path


def _bind(server: Any, listen: str, credentials: grpc.ServerCredentials) -> int:
    try:
        port = int(server.add_secure_port(listen, credentials))
    except RuntimeError:  # From grpc 1.60 on; before, the port was 0.
        port = 0
    if port == 0:
        _, wanted = split_address(listen, least_port=0)
        raise EnvironmentFault(
            f"{listen} cannot be listened on: another process has the port, or the address is not this "
            f"machine's. Who has it says: ss -ltnp 'sport = :{wanted}'; another one is set by listen in "
            "coordinator.toml"
        )
    return port
