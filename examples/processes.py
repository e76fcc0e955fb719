"""A coordinator and silos as processes of this machine, over mutual TLS on loopback.

For demonstrations, benchmarks and tests. Everything is begun anew each time: keys, certificates, state.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from coordinator.client import Coordinator
from coordinator.development import write_development_federation
from secagg.errors import EnvironmentFault
from secagg.names import SiloId
from silo.app import source_hash

START_SECONDS, STOP_SECONDS = 120.0, 20.0


class Processes:
    """One coordinator and some silos; all end with the block.

    Args:
        folder: for keys, certificates, state and logs; what was there is removed.
        silos: names, in roster order.
        app: import path of what they train with; they approve its source as it is now. None for nothing.
        named: further arguments of ``write_development_federation``.

    Attributes:
        address: of the coordinator.
        credentials: folder of the data scientist.
        running: name -> process.
    """

    def __init__(self, folder: Path, silos: Sequence[SiloId], *, app: str | None, **named: Any) -> None:
        self.folder = folder
        self.silos = tuple(silos)
        self.address = f"127.0.0.1:{free_port()}"
        self.credentials = folder / "scientist"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        shutil.rmtree(folder, ignore_errors=True)
        write_development_federation(
            folder,
            silos,
            listen=self.address,
            apps={} if app is None else {app: source_hash(app)},
            **named,
        )

    def __enter__(self) -> Self:
        try:
            self.start_coordinator()
            for silo in self.silos:
                self.start(silo)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_coordinator(self) -> None:
        """Start the coordinator's process, and return when it says that it is ready.

        Raises:
            EnvironmentFault: it ended instead.
        """
        config = self.folder / "coordinator" / "coordinator.toml"
        process = self._start("coordinator", "coordinator", "up", config, stdout=subprocess.PIPE)
        log = (self.folder / "coordinator.log").open("ab")
        for line in process.stdout or ():
            log.write(line)
            if b"ready" in line:
                break
        else:
            log.close()
            raise EnvironmentFault(f"the coordinator did not start; see {self.folder}/coordinator.log")
        log.flush()
        threading.Thread(target=_drain, args=(process.stdout, log), daemon=True).start()

    def start(self, silo: SiloId) -> None:
        """Start a silo's process."""
        self._start(silo, "silo", "run", self.folder / "silos" / silo / "silo.toml")

    def kill(self, name: str) -> None:
        """End a process as a power cut does: SIGKILL."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def log(self, name: str) -> str:
        """Return what a process has printed so far."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def stop(self) -> None:
        """End every process: SIGTERM, and SIGKILL for those that take too long."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    def _start(
        self, name: str, command: str, verb: str, config: Path, *, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own commands
                [Path(sys.executable).parent / command, verb, "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
            )
        self.running[name] = process
        return process


def wait_for_all(coordinator: Coordinator) -> None:
    """Return when every silo is connected.

    Raises:
        EnvironmentFault: one is not, ``START_SECONDS`` later.
    """
    until = time.monotonic() + START_SECONDS
    while away := [silo.silo for silo in coordinator.status().silos if not silo.connected]:
        if time.monotonic() > until:
            raise EnvironmentFault(f"{', '.join(away)} did not connect; see their logs")
        time.sleep(0.2)  # Between two looks at processes that start; nobody tells when one has.


def _drain(source: IO[bytes] | None, log: IO[bytes]) -> None:
    with log:
        for line in source or ():
            log.write(line)
            log.flush()


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
