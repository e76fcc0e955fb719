"""A federation of real processes on loopback over mutual TLS, whose faults are ordered by tests.

Nothing here sleeps: a test waits for a line in a log, the end of a process, or an event of a run, and for
each no longer than ``LIMIT``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from pathlib import Path
from signal import Signals
from typing import Any, Self

import numpy as np

from coordinator.client import Coordinator
from coordinator.development import write_development_federation
from examples.processes import free_port
from secagg.errors import UsageError
from secagg.learning.federation import Federation
from secagg.learning.history import History
from secagg.learning.progress import Silent
from secagg.learning.remote import Outcome
from secagg.learning.request import RunRequest, asked_of, strategy_pairs
from secagg.learning.strategies import FedAvg
from secagg.masking.params import Masking
from secagg.names import RealVector, SiloId
from secagg.policy import Policy
from secagg.records import AttemptJoined, SiloRecord, decode_silo_record
from secagg.report import RoundReport
from silo.app import source_hash
from tests.faults.app import APP, Counted
from tests.faults.orders import Order, Orders

ROOT = Path(__file__).parent.parent.parent
SILOS: tuple[SiloId, ...] = ("north", "south", "west", "east")
FLOORS = Policy(min_weight_cap=1000.0)
LIMIT = 180
"""Seconds for anything that is waited for: far more than it takes, so that a slow machine fails no test."""
SETTINGS: dict[str, Any] = {
    "clip": 8.0,
    "weight_cap": 1000.0,
    "least_total_weight": 10.0,
    "precision": 1e-3,
    "metric_bound": 100.0,
    "metrics": ("loss",),
    "epochs": 1,
    "learning_rate": None,
    "seed": 7,
    "word_bits": None,
}
LENGTH = 50


def initial(length: int = LENGTH) -> RealVector:
    """Return other weights each time: silos that lost one of them would refuse a second sum from a base."""
    return np.linspace(-1.0, 1.0, length) + next(_numbers) / 64


_numbers = count()


def within_limit(wait: Callable[[float], bool]) -> bool:
    """Wait second by second, ``LIMIT`` times: a machine that stands still for minutes loses one of them."""
    return any(wait(1.0) for _ in range(LIMIT))


class Process:
    """One process, all that it says, and how it ended."""

    def __init__(self, command: Sequence[str | Path], **named: Any) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **named
        )
        self._lines: list[str] = []
        self._more = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        with self._more:
            return "".join(self._lines)

    def saw(self, *words: str, start: int = 0) -> str:
        """Return the first line after the first ``start`` with all of ``words``, waiting for it."""

        def found() -> str | None:
            lines = (line for line in self._lines[start:] if all(word in line for word in words))
            return next(lines, None)

        with self._more:
            within_limit(
                lambda seconds: self._more.wait_for(lambda: found() is not None or self._over, seconds)
            )
            line = found()
        assert line is not None, f"{words} was not said:\n{self.log}"
        return line

    def mark(self) -> int:
        """Return how many lines there are."""
        with self._more:
            return len(self._lines)

    def signal(self, number: Signals) -> None:
        self._process.send_signal(number)

    def end(self, number: Signals | None = None) -> int:
        """Send a signal, if one is given, and return the exit code."""
        if number is not None and self.alive:
            self.signal(number)
        code = self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        return code

    def _read(self) -> None:
        with self._process.stdout as out:  # type: ignore[union-attr]
            for line in out:
                with self._more:
                    self._lines.append(line.decode(errors="replace"))
                    self._more.notify_all()
        with self._more:
            self._over = True
            self._more.notify_all()


class Watched(Silent):
    """A run that is watched from a thread.

    Attributes:
        weights: that it began with.
        waits: what was said about waiting.
        reports: of the sums so far.
    """

    def __init__(self, coordinator: Coordinator, run: str, weights: RealVector) -> None:
        self.run = run
        self.weights = weights
        self.waits: list[str] = []
        self.reports: list[RoundReport] = []
        self._events: list[tuple[object, ...]] = []
        self._more = threading.Condition()
        self._outcome: Future[Outcome] = Future()
        threading.Thread(target=self._watch, args=(coordinator,), daemon=True).start()

    def outcome(self) -> Outcome:
        """Return how it ended, waiting for it."""
        with self._more:
            ended = within_limit(lambda seconds: self._more.wait_for(self._outcome.done, seconds))
            assert ended, f"{self.run} did not end; last seen: {self._events[-8:]}, {self.waits}"
        return self._outcome.result()

    def until(self, *event: object, after: tuple[object, ...] | None = None) -> None:
        """Return when ``event`` has happened: ("round", 2) or ("silo", phase, state)."""

        def happened() -> bool:
            if after is not None and after not in self._events:
                return False
            return event in self._events[0 if after is None else self._events.index(after) :]

        with self._more:
            assert within_limit(
                lambda seconds: self._more.wait_for(lambda: happened() or self._outcome.done(), seconds)
            )
            assert happened()

    def round_started(self, round_number: int, *, attempt: int = 1) -> None:
        self._note("round", round_number)

    def silo_phase(self, silo: SiloId, phase: str, state: str) -> None:
        self._note(silo, phase, state)

    def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        self.reports.append(report)
        self._note("opened", report.round)

    def _note(self, *event: object) -> None:
        with self._more:
            self._events.append(event)
            self._more.notify_all()

    def _watch(self, coordinator: Coordinator) -> None:
        try:
            self._outcome.set_result(coordinator.watch(self.run, self, waiting=self.waits.append))
        except Exception as error:  # noqa: BLE001 - raised again by ``outcome``
            self._outcome.set_exception(error)
        with self._more:
            self._more.notify_all()


class Gate:
    """Where a training waits until this is called."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._opened: Future[int] = Future()
        threading.Thread(target=self._open, daemon=True).start()

    def _open(self) -> None:
        with suppress(OSError):  # The test has ended, and nobody came.
            self._opened.set_result(os.open(self._path, os.O_WRONLY))

    def reached(self) -> None:
        """Return when the training waits here."""
        self._opened.result(LIMIT)

    def __call__(self) -> None:
        self.reached()
        self._path.unlink()
        os.close(self._opened.result())


class World:
    """A coordinator and its silos; all end with the block.

    Args:
        folder: empty; everything is in it.
        silos: how many, or their names.
        spoiled: silo -> further arguments of its trainer.
        length: of the model.
        ordered: start them by the launcher; otherwise by the commands that operators type.
    """

    def __init__(
        self,
        folder: Path,
        *,
        silos: Sequence[SiloId] = SILOS,
        policy: Policy = FLOORS,
        spoiled: Mapping[SiloId, Mapping[str, Any]] | None = None,
        length: int = LENGTH,
        ordered: bool = True,
        diaries: bool = True,
    ) -> None:
        self.folder = folder
        self.files = folder / "federation"
        self.silos = tuple(silos)
        self.length = length
        self.listen = f"127.0.0.1:{free_port()}"
        self.running: dict[str, Process] = {}
        self.environment: dict[str, dict[str, str]] = {}
        self._ordered = ordered
        self._marks: dict[str, int] = {}  # Lines that silos had said when the coordinator was started.
        for name in ("home", "tmp", "cwd", "diaries"):
            (folder / name).mkdir(parents=True)
        arguments: dict[SiloId, dict[str, Any]] = {}
        for seed, silo in enumerate(self.silos):
            arguments[silo] = {"seed": seed, **(spoiled or {}).get(silo, {})}
            if diaries:
                arguments[silo] |= {"diary": str(self.diary(silo)), "gate": str(self._gate(silo))}
        write_development_federation(
            self.files,
            self.silos,
            listen=self.listen,
            policy=policy,
            apps={APP: source_hash(APP)},
            arguments=arguments,
        )
        self.client = Coordinator(credentials=self.files / "scientist")

    def __enter__(self) -> Self:
        try:
            self.start("coordinator", *self.silos)
            self.together(*self.silos)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- processes -----------------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start processes; the coordinator is ready when this returns."""
        for name in names:
            if name == "coordinator":
                self._marks = {silo: self[silo].mark() for silo in self.silos if silo in self.running}
                self._start(name, "coordinator", "up", self.config(name))
                try:
                    self.running[name].saw("ready in")
                except AssertionError:  # Another test may start one that does say so.
                    self.running.pop(name).end(Signals.SIGKILL)
                    raise
            else:
                self._marks.pop(name, None)
                self._start(name, "silo", "run", self.config(name))

    def _start(self, name: str, command: str, verb: str, config: Path) -> None:
        python: list[str | Path] = [
            sys.executable,
            "-m",
            "tests.faults.launcher",
            self._orders(name),
            command,
        ]
        script: list[str | Path] = [Path(sys.executable).parent / command]
        self.running[name] = Process(
            [*(python if self._ordered else script), verb, "--config", config, "--log-level", "debug"],
            cwd=self.folder / "cwd",
            env=self.surroundings(name),
        )

    def surroundings(self, name: str = "") -> dict[str, str]:
        """Return the environment of a process."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            **self.environment.get(name, {}),
        }

    def __getitem__(self, name: str) -> Process:
        return self.running[name]

    def typed(self, *words: str | Path, code: int, where: str = "") -> str:
        """Type a command to its end and return what it said."""
        process = Process(
            [Path(sys.executable).parent / words[0], *words[1:]],
            cwd=self.folder / "cwd",
            env=self.surroundings(where),
        )
        assert process.end() == code, process.log
        return process.log

    def end(self, name: str) -> None:
        """Stop a process as an operator does, if it runs."""
        self.running.pop(name).end(Signals.SIGTERM)

    def killed(self, name: str) -> None:
        """Wait for a process that obeys an order to kill itself."""
        assert self.running.pop(name).end() == -Signals.SIGKILL
        assert self._orders_of(name).obeyed

    def mend(self) -> None:
        """Withdraw every order, end the run if one is under way, and start what does not run."""
        for name in ("coordinator", *self.silos):
            self.withdraw(name)
        for gate in (self.folder / "diaries").glob("gate-*"):
            os.close(os.open(gate, os.O_RDWR))  # Whoever waits at either end waits no longer.
            gate.unlink()
        down = [
            name for name in ("coordinator", *self.silos) if name not in self.running or not self[name].alive
        ]
        self.start(*down)
        if (run := self.client.status().run) is not None:
            with suppress(UsageError):  # It ended meanwhile.
                self.client.halt(run.run)
        self.together(*down)

    def together(self, *names: str) -> None:
        """Wait until all silos are connected, or those that were started just now."""
        for name in self.silos if "coordinator" in names else names:
            self[name].saw('"event": "connected"', start=self._marks.get(name, 0))

    def stop(self) -> None:
        self.client.close()
        for process in self.running.values():
            if process.alive:
                process.signal(Signals.SIGKILL)
        for process in self.running.values():
            process.end()
        self.running.clear()

    # --- files ---------------------------------------------------------------------------------------------

    def home(self, name: str) -> Path:
        """Return the folder with a party's files."""
        return self.files / name if name == "coordinator" else self.files / "silos" / name

    def config(self, name: str) -> Path:
        return self.home(name) / ("coordinator.toml" if name == "coordinator" else "silo.toml")

    def state(self, name: str) -> Path:
        return self.home(name) / "state"

    def runs(self, run: str) -> Path:
        """Return the folder of a run."""
        return self.state("coordinator") / "runs" / run

    def diary(self, silo: SiloId) -> Path:
        return self.folder / "diaries" / silo

    def trained(self, silo: SiloId) -> Counter[int]:
        """Return how often a silo trained each round of the present run."""
        diary = self.diary(silo)
        return Counter(map(int, diary.read_text().split())) if diary.exists() else Counter()

    def joined(self, silo: SiloId) -> Counter[AttemptJoined]:
        """Return how often a silo joined each attempt."""
        return Counter(record for record in self.journal(silo) if isinstance(record, AttemptJoined))

    def journal(self, silo: SiloId) -> list[SiloRecord]:
        database = sqlite3.connect(f"file:{self.state(silo) / 'journal.sqlite3'}?mode=ro", uri=True)
        try:
            lines = database.execute("SELECT line FROM record ORDER BY number").fetchall()
        finally:
            database.close()
        return [decode_silo_record(line) for (line,) in lines]

    # --- orders --------------------------------------------------------------------------------------------

    def order(self, name: str, order: Order) -> None:
        """Order what is to go wrong in a process."""
        self._orders_of(name).give(order)

    def obeyed(self, name: str) -> bool:
        return self._orders_of(name).obeyed

    def withdraw(self, name: str) -> None:
        self._orders_of(name).withdraw()

    def _orders_of(self, name: str) -> Orders:
        return Orders(self._orders(name))

    def _orders(self, name: str) -> Path:
        return self.folder / "orders" / f"{name}.json"

    def shut(self, silo: SiloId, number: int) -> Gate:
        """Let the training of round ``number`` at ``silo`` wait; return what lets it go on."""
        return Gate(self.gate(silo, number))

    def gate(self, silo: SiloId, number: int) -> Path:
        """Return the named pipe at which the training of round ``number`` waits, if it is there."""
        return Path(f"{self._gate(silo)}.{number}")

    def _gate(self, silo: SiloId) -> Path:
        return self.folder / "diaries" / f"gate-{silo}"

    # --- runs ----------------------------------------------------------------------------------------------

    def request(self, rounds: int, **changes: Any) -> RunRequest:
        return RunRequest(
            name="faults",
            rounds=rounds,
            app=APP,
            strategy=strategy_pairs(FedAvg()),
            **{"scheme": asked_of(Masking()), **SETTINGS, **changes},
        )

    def begin(self, rounds: int, **changes: Any) -> Watched:
        """Start a run and watch it."""
        for silo in self.silos:
            self.diary(silo).unlink(missing_ok=True)
        weights = initial(self.length)
        return Watched(self.client, self.client.start(self.request(rounds, **changes), weights), weights)

    def again(self, watched: Watched) -> Watched:
        """Watch a run from its beginning."""
        return Watched(self.client, watched.run, watched.weights)

    def local(self, watched: Watched, rounds: int, there: Sequence[Sequence[SiloId]]) -> History:
        """Return what one process gives with the same survivors in each round."""
        dropouts = {
            number: {silo: "Training" for silo in self.silos if silo not in present}
            for number, present in enumerate(there, start=1)
        }
        federation = Federation(
            silos={silo: Counted(seed) for seed, silo in enumerate(self.silos)},
            initial=watched.weights,
            **SETTINGS,
        )
        return federation.run(rounds, dropouts=dropouts, progress=False)  # type: ignore[arg-type]

    # --- what always holds ---------------------------------------------------------------------------------

    def check(
        self, watched: Watched, rounds: int, *, repeated: frozenset[tuple[SiloId, int]] = frozenset()
    ) -> Outcome:
        """Check a run that opened every sum, and return its outcome.

        Args:
            watched: the run.
            rounds: that were asked for.
            repeated: (silo, round) whose training was lost before it was kept, so that it came twice.
        """
        try:
            outcome = watched.outcome()
        except AssertionError as error:
            for name, process in self.running.items():
                error.add_note(f"--- {name}:\n{process.log[-6000:]}")
            raise
        assert outcome.state in {"completed", "degraded"}, outcome.text
        survivors = [record.report.survivors for record in outcome.records]
        assert len(survivors) == rounds + 1
        assert outcome.exit == (0 if all(there == self.silos for there in survivors) else 8)
        alone = self.local(watched, rounds, survivors)
        np.testing.assert_array_equal(self.client.model(watched.run), alone.model)
        assert [record.metrics for record in outcome.records] == [r.metrics for r in alone.records]
        assert outcome.model is not None
        assert Path(outcome.model).is_file()
        self.check_honest(outcome)
        for silo in self.silos:
            for number, times in self.trained(silo).items():
                assert times == 1 or (times == 2 and (silo, number) in repeated), (silo, number, times)
            assert set(self.joined(silo).values()) <= {1}
        return outcome

    def check_honest(self, outcome: Outcome) -> None:
        """Check that nobody is named faulty, by anybody."""
        for record in outcome.records:
            for silo, why in record.report.dropouts.items():
                assert "fault" not in why, (silo, why)
        for name, process in self.running.items():
            assert "fault" not in process.log.lower().replace("faults", ""), (name, process.log)
            assert "left the protocol" not in process.log
            assert "Traceback" not in process.log, (name, process.log)


def said(process: Process, *words: str, start: int = 0) -> list[str]:
    """Return the lines so far, after the first ``start``, with all of ``words``."""
    return [line for line in process.log.splitlines()[start:] if all(word in line for word in words)]


def entries(log: str) -> list[dict[str, Any]]:
    """Return the lines of a log that are JSON."""
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]
