"""Runs on a real coordinator over mutual TLS: the same History as in one process, and every verdict."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from coordinator.client import Coordinator
from coordinator.control import (
    CONTROL,
    MAX_SENDING,
    MAX_WEIGHTS,
    Ask,
    Of,
    Start,
    Weights,
    decode,
    encode,
    weights_of,
)
from coordinator.failures import Failed
from coordinator.feed import Ended, Feed, RoundFinished, RoundStarted, RunStarted, SiloPhase
from coordinator.on_disk import Unreadable
from coordinator.run import _undisturbed
from coordinator.runs import Runs

import grpc  # isort: skip

from secagg import errors
from secagg.errors import (
    EnvironmentFault,
    FaultySilo,
    InputRefused,
    MalformedMessage,
    MissingExtra,
    ParameterError,
    PolicyRefused,
    RoundAborted,
    RunStopped,
    SecaggError,
    SiloLeftOut,
    TooFewSilos,
    TrustError,
    UsageError,
    exit_code,
)
from secagg.explanation import explain
from secagg.learning.model import GlobalModel
from secagg.learning.progress import Silent, State
from secagg.learning.remote import Outcome
from secagg.link.options import CHANNEL_OPTIONS
from secagg.messages import SumOpened, SurvivorsAnnounced, TrainingOpened
from secagg.names import RealVector
from secagg.payload import Payload
from secagg.policy import Policy
from secagg.report import RoundReport
from tests.learners import fails
from tests.loopback.hospitals import INITIAL, Hospitals, hospitals, running
from tests.test_model_file import RECORD, REPORT
from tests.test_request import request

ROUNDS = 2


def run(work: Callable[[], Awaitable[None]], *, seconds: float = 90) -> None:
    """Run a test's coroutine; a test that hangs fails."""

    async def limited() -> None:
        async with asyncio.timeout(seconds):
            await work()

    asyncio.run(limited())


class Told(Silent):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.silos: tuple[str, ...] = ()
        self.phases: tuple[str, ...] = ()
        self.calls: list[tuple[Any, ...]] = []
        self.rounds = threading.Semaphore(0)

    def run_started(self, silos: Sequence[str], phases: Sequence[str], *, rounds: int) -> None:
        self.silos, self.phases = tuple(silos), tuple(phases)
        self.calls.append(("run", rounds))

    def round_started(self, round_number: int, *, attempt: int = 1) -> None:
        self.calls.append(("round", round_number, attempt))

    def silo_phase(self, silo: str, phase: str, state: State) -> None:
        self.calls.append((silo, phase, state))

    def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        self.calls.append(("finished", report.round, dict(metrics)))

    def finished(self) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == "finished"]


def files(here: Hospitals) -> list[str]:
    return sorted(path.name for path in (here.state / "runs").glob("*/*"))


# --- the same run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam"])
def test_a_scientist_gets_the_history_of_one_process(strategy: str, tmp_path: Path) -> None:
    import secagg.learning.strategies as kinds

    chosen = getattr(kinds, strategy)()
    here, told = hospitals(tmp_path / "f"), Told()

    async def work() -> None:
        async with running(here) as (_, coordinator):
            federation = here.federation(coordinator, strategy=chosen)
            history = await asyncio.to_thread(federation.run, ROUNDS, progress=told)
            local = here.local(ROUNDS, strategy=chosen)
            assert np.array_equal(history.model, local.model)
            assert [record.metrics for record in history.records] == [r.metrics for r in local.records]
            assert [r.report.survivors for r in history.records] == [here.roster.silos] * (ROUNDS + 1)
            assert federation.history is history
            (shown,) = await asyncio.to_thread(coordinator.runs)
            assert (shown.state, shown.exit, shown.rounds, shown.sums) == ("completed", 0, ROUNDS, 3)
            assert shown.asker == "scientist:scientist"
            folder = here.state / "runs" / shown.run
            assert np.array_equal(
                load_file(folder / "model.safetensors")["weights"], history.model.astype(np.float32)
            )
            card = json.loads((folder / "model.card.json").read_text())
            digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
            assert (card["rounds"], card["model"]["sha256"]) == (ROUNDS, digest)

    run(work)
    assert files(here) == ["checkpoint.safetensors", "model.card.json", "model.safetensors"]
    assert not list((here.state / "spool").iterdir())
    assert told.calls[0] == ("run", ROUNDS)
    assert told.silos == here.roster.silos
    assert [call[1] for call in told.finished()] == [1, 2, 3]
    for silo in here.roster.silos:
        assert (silo, "MaskedInput", "done") in told.calls  # Unmasking ends when enough have answered.
        # Who asks for the base has yet to train.
        assert told.calls.count((silo, "Training", "done")) <= ROUNDS + 1
    assert all(len(trainer.trained) == ROUNDS for trainer in here.trainers.values())


def test_a_late_watcher_sees_all(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f")

    async def work() -> None:
        async with running(here) as (_, coordinator):
            first = await asyncio.to_thread(here.federation(coordinator).run, ROUNDS, progress=False)
            (shown,) = await asyncio.to_thread(coordinator.runs)
            told = Told()
            outcome = await asyncio.to_thread(coordinator.watch, shown.run, told)
            assert outcome.records == first.records
            assert (outcome.state, outcome.exit) == ("completed", 0)
            assert [call for call in told.calls if call[0] in {"run", "round"}] == [
                ("run", ROUNDS), ("round", 1, 1), ("round", 2, 1), ("round", 3, 1)
            ]  # fmt: skip
            assert outcome.model == str(here.state / "runs" / shown.run / "model.safetensors")
        async with running(here) as (_, coordinator):  # And in the next process.
            again = await asyncio.to_thread(coordinator.watch, shown.run, Told())
            assert again == outcome

    run(work)


def test_a_layout_names_the_tensors_of_the_model(tmp_path: Path) -> None:
    from coordinator.model_file import write_model

    here = hospitals(tmp_path / "f")
    write_model(
        tmp_path / "initial.safetensors", GlobalModel(1, INITIAL), (("slope", (2, 2)), ("bias", (1,)))
    )

    async def work() -> None:
        async with running(here) as (_, coordinator):
            federation = here.federation(coordinator, initial=tmp_path / "initial.safetensors")
            history = await asyncio.to_thread(federation.run, 1, progress=False)
            (shown,) = await asyncio.to_thread(coordinator.runs)
            model = load_file(here.state / "runs" / shown.run / "model.safetensors")
            assert model["slope"].shape == (2, 2)
            assert np.array_equal(model["bias"], history.model[4:].astype(np.float32))

    run(work)


# --- other verdicts -----------------------------------------------------------------------------------------


def failed(here: Hospitals, kind: type[SecaggError], **changes: Any) -> tuple[SecaggError, Outcome, Any]:
    """Run to an error, and return it, the outcome as a later watcher sees it, and the history."""
    seen: list[Any] = []

    async def work() -> None:
        async with running(here) as (_, coordinator):
            federation = here.federation(coordinator, **changes)
            with pytest.raises(kind) as caught:
                await asyncio.to_thread(federation.run, ROUNDS, progress=False)
            (shown,) = await asyncio.to_thread(coordinator.runs)
            seen.extend(
                (
                    caught.value,
                    await asyncio.to_thread(coordinator.watch, shown.run, Told()),
                    federation.history,
                )
            )

    run(work)
    assert files(here) == ["checkpoint.safetensors"], "no model is written"
    return seen[0], seen[1], seen[2]


def test_too_few_silos_halt_a_run(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f", spoiled={"north": fails, "west": fails})
    error, outcome, history = failed(here, TooFewSilos)
    assert isinstance(error, TooFewSilos)
    assert (error.have, error.need, error.phase, error.missing) == (2, 3, "Training", ("north", "west"))
    assert (outcome.state, outcome.exit, outcome.model, outcome.records) == ("halted", 4, None, ())
    assert outcome.text == error.__notes__[0]
    assert "x SA-4102  round 1 halted: 2 of 4 silos answered, 3 are needed in Training" in outcome.text
    assert "north and west (refused: trainer)" in outcome.text
    assert "nothing left a silo" in outcome.text
    assert (len(history.records), history.model.tolist()) == (0, INITIAL.tolist())


def test_policies_refuse_a_run_with_the_rule_alone(tmp_path: Path) -> None:
    strict = Policy(max_clip=1.0, min_weight_cap=1000.0)
    here = hospitals(tmp_path / "f", policies={"north": strict, "west": strict})
    error, outcome, _ = failed(here, PolicyRefused)
    assert isinstance(error, PolicyRefused)
    assert error.rule == "max_clip"
    assert (outcome.state, outcome.exit) == ("refused", 6)
    assert "x SA-6007  north and west refused round 1: the clip is above its cap" in outcome.text
    assert "1 is the cap" not in outcome.text
    assert not any(trainer.trained for silo, trainer in here.trainers.items() if silo in {"north", "west"})


def test_fewer_silos_than_asked_degrade_a_run(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f", spoiled={"west": fails})

    async def work() -> None:
        async with running(here) as (_, coordinator):
            with pytest.warns(
                SiloLeftOut, match=r"degraded: 2 rounds, 3 of 4 silos .* without west \(refused"
            ):
                history = await asyncio.to_thread(here.federation(coordinator).run, ROUNDS, progress=False)
            (shown,) = await asyncio.to_thread(coordinator.runs)
            assert (shown.state, shown.exit) == ("degraded", 8)
            assert all(len(r.report.survivors) == 3 for r in history.records if r.report.kind == "train")

    run(work)
    assert files(here) == ["checkpoint.safetensors", "model.card.json", "model.safetensors"]


# --- one at a time, halted and resumed ----------------------------------------------------------------------


def asked(coordinator: Coordinator, weights: RealVector = INITIAL, **changes: Any) -> str:
    values = {
        "rounds": ROUNDS,
        "weight_cap": 1000.0,
        "least_total_weight": 100.0,
        "seed": 7,
        "app": "hospital.training:trainer",
    }
    return coordinator.start(request(**values | changes), weights)


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f")

    async def work() -> None:
        async with running(here, silos=()) as (_, coordinator):
            first = await asyncio.to_thread(asked, coordinator)
            with pytest.raises(UsageError, match=f"run {first} \\(job\\) is under way"):
                await asyncio.to_thread(asked, coordinator)
            with pytest.raises(UsageError, match=f"run {first} \\(job\\) is under way"):
                await asyncio.to_thread(coordinator.resume, first)
            await asyncio.to_thread(coordinator.halt, first)
            assert [shown.run for shown in await asyncio.to_thread(coordinator.runs)] == [first]

    run(work)


def test_a_run_says_for_whom_it_waits_and_goes_on_without(tmp_path: Path) -> None:
    here, waits = hospitals(tmp_path / "f"), list[str]()

    async def work() -> None:
        async with running(here, silos=("north", "south", "west")) as (_, coordinator):
            name = await asyncio.to_thread(asked, coordinator, training_seconds=1.0)
            outcome = await asyncio.to_thread(coordinator.watch, name, Told(), waiting=waits.append)
            assert (outcome.state, outcome.exit) == ("degraded", 8)

    run(work)
    assert any(
        text.startswith("waiting for east: 3 silos connected, 3 needed, since ") and "; goes on at " in text
        for text in waits
    )


def test_without_a_quorum_the_wait_ends_in_a_halt(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f")

    async def work() -> None:
        async with running(here, silos=("north", "south")) as (_, coordinator):
            name = await asyncio.to_thread(asked, coordinator, training_seconds=0.5)
            outcome = await asyncio.to_thread(coordinator.watch, name, Told())
            assert (outcome.state, outcome.exit) == ("halted", 4)
            assert isinstance(outcome.error, TooFewSilos)
            assert outcome.error.missing == ("west", "east")
            assert "2 of 4 silos answered, 3 are needed" in outcome.text

    run(work)
    assert files(here) == ["checkpoint.safetensors"]


def hold(here: Hospitals, silo: str, *, number: int) -> tuple[threading.Event, threading.Event]:
    """Let ``silo`` stop where round ``number`` opens; return what says that it does, and what ends it."""
    held, go = threading.Event(), threading.Event()

    def holding(message: object) -> None:
        if isinstance(message, TrainingOpened) and message.terms.round == number:
            held.set()
            go.wait()

    here.silos[silo].before = holding
    return held, go


def test_a_halted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f")
    held, go = hold(here, "west", number=2)

    async def work() -> None:
        async with running(here) as (_, coordinator):
            with here.person("operator") as operator:
                name = await asyncio.to_thread(asked, coordinator)
                watching = asyncio.create_task(asyncio.to_thread(coordinator.watch, name, Told()))
                await asyncio.to_thread(held.wait)
                status = await asyncio.to_thread(operator.status)
                assert status.run is not None
                assert (status.run.run, status.round, status.phase) == (name, 2, "Training")
                assert [silo.silo for silo in status.silos if silo.connected] == list(here.roster.silos)
                await asyncio.to_thread(operator.halt, name)
                outcome = await watching
                assert (outcome.state, outcome.exit, len(outcome.records)) == ("stopped", 4, 1)
                assert isinstance(outcome.error, RunStopped)
                assert "operator:operator halted the run" in outcome.text
                assert files(here) == ["checkpoint.safetensors"]
                assert (await asyncio.to_thread(operator.status)).run is None
                with pytest.raises(UsageError, match="is not under way"):
                    await asyncio.to_thread(operator.halt, name)
                go.set()
                await asyncio.to_thread(operator.resume, name)
                outcome = await asyncio.to_thread(coordinator.watch, name, Told())
                assert (outcome.state, len(outcome.records)) == ("completed", ROUNDS + 1)
                model = await asyncio.to_thread(coordinator.model, name)
                assert np.array_equal(model, here.local(ROUNDS).model)
                with pytest.raises(UsageError, match="nothing left to do"):
                    await asyncio.to_thread(operator.resume, name)

    run(work)
    assert {silo: len(t.trained) for silo, t in here.trainers.items()} == dict.fromkeys(here.trainers, ROUNDS)


def test_a_run_that_goes_on_does_not_wait_long_for_a_silo_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halted in its second round; then only three silos come back, and training may take an hour."""
    monkeypatch.setattr("coordinator.run.RETURN_SECONDS", 0.5)
    here, waits = hospitals(tmp_path / "f"), list[str]()
    held, go = hold(here, "west", number=2)

    async def work() -> None:
        async with running(here) as (_, coordinator):
            name = await asyncio.to_thread(asked, coordinator)
            await asyncio.to_thread(held.wait)
            await asyncio.to_thread(coordinator.halt, name)
            go.set()
        async with running(here, silos=("north", "south", "west")) as (_, coordinator):
            await asyncio.to_thread(coordinator.resume, name)
            outcome = await asyncio.to_thread(coordinator.watch, name, Told(), waiting=waits.append)
            assert outcome.state == "degraded"
            assert [len(record.report.survivors) for record in outcome.records] == [4, 3, 3]

    run(work)
    assert any(text.startswith("waiting for east: 3 silos connected, 3 needed") for text in waits)


# --- killed and started again -------------------------------------------------------------------------------


class Process:
    """A real ``coordinator up``."""

    def __init__(self, here: Hospitals, *, logs: bool = False) -> None:
        self._command = [sys.executable, "-c", "from coordinator.cli import main; main()", "up", "--config"]
        self._command.append(str(here.config_file))
        self._logs = logs
        self.said = self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> list[str]:
        log = subprocess.PIPE if self._logs else subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line.rstrip())
            if "ready in" in line:
                break
        return said

    def logged(self, event: str) -> None:
        """Return when ``event`` was logged."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if json.loads(line)["event"] == event:
                return

    def send(self, by: signal.Signals) -> None:
        self._process.send_signal(by)

    def kill(self) -> None:
        self._process.kill()
        self.ended()

    def stop(self, by: signal.Signals) -> int:
        self.send(by)
        return self.ended()

    def ended(self) -> int:
        code = self._process.wait(timeout=60)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        return code


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        pytest.param(TrainingOpened, 2, id="training", marks=pytest.mark.full),
        pytest.param(SurvivorsAnnounced, 1, id="survivors asked"),
        pytest.param(SumOpened, 1, id="sum opened", marks=pytest.mark.full),
        pytest.param(SumOpened, 3, id="last sum opened"),
    ],
)
def test_a_killed_coordinator_goes_on_and_no_silo_trains_twice(
    kind: type[Any], number: int, tmp_path: Path
) -> None:
    here = hospitals(tmp_path / "f")
    process = Process(here)
    seen = 0
    dead = threading.Event()

    def kill(message: object) -> None:
        nonlocal seen
        seen += isinstance(message, kind)
        if seen == number and not dead.is_set():
            process.kill()
            dead.set()

    here.silos["west"].before = kill

    async def work() -> None:
        here.connect()
        with here.person() as coordinator:
            name, told = await asyncio.to_thread(asked, coordinator), Told()
            watching = asyncio.create_task(asyncio.to_thread(coordinator.watch, name, told))
            await asyncio.to_thread(dead.wait)
            said = await asyncio.to_thread(process.start)
            assert any(line.split()[:2] == ["run", name] for line in said)
            outcome = await watching
            assert (outcome.state, outcome.exit) == ("completed", 0)
            assert [call[1] for call in told.finished()] == [1, 2, 3]
            model = await asyncio.to_thread(coordinator.model, name)
            assert np.array_equal(model, here.local(ROUNDS).model)
        await here.disconnect()

    try:
        run(work)
        assert process.stop(signal.SIGTERM) == 0
    finally:
        process.kill()
    assert {silo: len(t.trained) for silo, t in here.trainers.items()} == dict.fromkeys(here.trainers, ROUNDS)
    assert files(here) == ["checkpoint.safetensors", "model.card.json", "model.safetensors"]


def test_a_record_that_reached_the_checkpoint_alone_is_not_lost(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f")

    async def work() -> None:
        async with running(here) as (_, coordinator):
            first = await asyncio.to_thread(here.federation(coordinator).run, ROUNDS, progress=False)
        with closing(sqlite3.connect(here.state / "state.sqlite3")) as database, database:
            database.execute("DELETE FROM rounds WHERE round = 3")
            database.execute("UPDATE runs SET state = 'running', exit = NULL, ended = NULL")
        async with running(here, silos=()) as (serves, coordinator):  # No silo is needed for it.
            assert serves.resumed is not None
            outcome = await asyncio.to_thread(coordinator.watch, serves.resumed, Told())
            assert (outcome.state, outcome.records) == ("completed", first.records)

    run(work)


def test_whoever_watches_a_run_before_it_goes_on_sees_it_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, order = hospitals(tmp_path / "f"), list[str]()
    held, restored = threading.Event(), Runs._restored

    async def work() -> None:
        async with running(here, silos=()) as (_, coordinator):
            name = await asyncio.to_thread(asked, coordinator)

        def holding(runs: Runs, stored: Any) -> Any:
            assert held.wait(60)
            return restored(runs, stored)

        async def resuming(runs: Runs) -> str | None:
            going_on = asyncio.create_task(resume(runs))
            await asyncio.sleep(0)  # It has begun, and is held.
            watching = asyncio.create_task(runs.feed(name))
            await asyncio.sleep(0)
            held.set()
            resumed = await going_on
            assert await watching is runs._feeds[name]
            order.append("the run goes on")
            return resumed

        async def starting(server: Any) -> None:
            order.append("calls are taken")
            await start(server)

        served: Any = type(grpc.aio.server())
        resume, start = Runs.resume_interrupted, served.start
        monkeypatch.setattr(Runs, "_restored", holding)
        monkeypatch.setattr(Runs, "resume_interrupted", resuming)
        monkeypatch.setattr(served, "start", starting)
        async with running(here) as (_, coordinator):
            assert order == ["the run goes on", "calls are taken"]
            outcome = await asyncio.to_thread(coordinator.watch, name, Told())
            assert outcome.state == "completed"

    run(work)


@pytest.mark.parametrize(("by", "code"), [(signal.SIGTERM, 4), (signal.SIGINT, 130)])
def test_a_stopped_coordinator_halts_its_run_which_goes_on_the_next_time(
    by: signal.Signals, code: int, tmp_path: Path
) -> None:
    here = hospitals(tmp_path / "f")
    process = Process(here)

    async def work() -> None:
        with here.person() as coordinator:
            name, waits = await asyncio.to_thread(asked, coordinator), threading.Event()
            watching = asyncio.create_task(
                asyncio.to_thread(coordinator.watch, name, Told(), waiting=lambda _: waits.set())
            )
            await asyncio.to_thread(waits.wait)
            assert await asyncio.to_thread(process.stop, by) == code
            outcome = await watching
            assert (outcome.state, outcome.exit) == ("halted", 4)
            assert "the coordinator is being stopped" in outcome.text
            assert files(here) == ["checkpoint.safetensors"]
            await asyncio.to_thread(process.start)
            here.connect()
            outcome = await asyncio.to_thread(coordinator.watch, name, Told())
            assert outcome.state == "completed"
        await here.disconnect()

    try:
        run(work)
    finally:
        process.kill()


def test_a_round_that_is_under_way_may_finish_before_the_process_stops(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f")
    process = Process(here, logs=True)
    held, go = threading.Event(), threading.Event()

    def hold(message: object) -> None:
        if isinstance(message, TrainingOpened) and message.terms.round == 1:
            held.set()
            go.wait()

    here.silos["west"].before = hold

    async def work() -> None:
        here.connect()
        with here.person() as coordinator:
            name = await asyncio.to_thread(asked, coordinator)
            watching = asyncio.create_task(asyncio.to_thread(coordinator.watch, name, Told()))
            await asyncio.to_thread(held.wait)
            process.send(signal.SIGTERM)
            await asyncio.to_thread(process.logged, "stopping")
            go.set()
            assert await asyncio.to_thread(process.ended) == 4
            outcome = await watching
            assert (outcome.state, outcome.exit, len(outcome.records)) == ("halted", 4, 1)
            assert "round 2 halted: the run was stopped on purpose" in outcome.text
            await asyncio.to_thread(process.start)
            outcome = await asyncio.to_thread(coordinator.watch, name, Told())
            assert (outcome.state, len(outcome.records)) == ("completed", ROUNDS + 1)
        await here.disconnect()

    try:
        run(work)
    finally:
        process.kill()
    assert {silo: len(t.trained) for silo, t in here.trainers.items()} == dict.fromkeys(here.trainers, ROUNDS)


# --- who may call, and what is taken ------------------------------------------------------------------------


def dialled(here: Hospitals, party: str) -> grpc.Channel:
    """Return a channel of ``party``, with the files in its folder."""
    folder = here.folder / party
    stem = "silo" if "silos" in party else party
    credentials = grpc.ssl_channel_credentials(
        (folder / "authority.pem").read_bytes(),
        (folder / f"{stem}.key").read_bytes(),
        (folder / f"{stem}.pem").read_bytes(),
    )
    return grpc.secure_channel(here.config.listen, credentials, options=CHANNEL_OPTIONS)


def call(here: Hospitals, party: str, name: str, frames: list[bytes]) -> bytes:
    """Make a call as ``party``."""
    with dialled(here, party) as opened:
        channel: Any = opened
        path = f"/{CONTROL}/{name}"
        if name == "Start":
            return channel.stream_unary(path)(iter(frames), timeout=30)  # type: ignore[no-any-return]
        if name in {"Watch", "Model"}:
            return next(iter(channel.unary_stream(path)(frames[0], timeout=30)))  # type: ignore[no-any-return]
        return channel.unary_unary(path)(frames[0], timeout=30)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["Start", "Watch", "Model", "Halt", "Resume", "Runs", "Status"])
def test_a_silo_may_not_call(name: str, tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f", 3)

    async def work() -> None:
        async with running(here, silos=()):
            with pytest.raises(grpc.RpcError) as caught:
                await asyncio.to_thread(call, here, "silos/north", name, [encode(Ask())])
            refused: Any = caught.value
            assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "silo north may not make this call" in refused.details()

    run(work)


def test_a_scientist_who_asks_for_a_key_is_told_whose_call_it_is(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f", 3)

    def ask() -> None:
        with Coordinator(credentials=here.folder / "scientist") as scientist:
            scientist.make_key("ckks")

    async def work() -> None:
        async with running(here, silos=()):
            with pytest.raises(UsageError, match="it is for operator") as refused:
                await asyncio.to_thread(ask)
            assert "fingerprint" not in explain(refused.value).text()

    run(work)


def test_a_silos_files_are_no_persons(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f", 3)
    client = (here.folder / "scientist" / "client.toml").read_text().replace("scientist.", "silo.")
    (here.folder / "silos" / "north" / "client.toml").write_text(client)
    with pytest.raises(TrustError, match="is for silo north, not for a scientist"):
        Coordinator(credentials=here.folder / "silos" / "north")


def test_a_revoked_scientist_is_refused(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    here = hospitals(tmp_path / "f", 3)
    certificate = x509.load_pem_x509_certificate((here.folder / "scientist" / "scientist.pem").read_bytes())
    text = here.config_file.read_text()
    revoked = f'revoked = ["{certificate.fingerprint(hashes.SHA256()).hex()}"]'
    here.config_file.write_text(text.replace("revoked = []", revoked))

    async def work() -> None:
        async with running(here, silos=()) as (_, coordinator):
            with pytest.raises(TrustError, match="revoked"):
                await asyncio.to_thread(coordinator.status)

    run(work)


def test_a_caller_that_means_other_silos_is_refused(tmp_path: Path) -> None:
    here, other = hospitals(tmp_path / "f", 3), hospitals(tmp_path / "g", 3)
    other_roster = (other.folder / "scientist" / "roster.toml").read_text()
    (here.folder / "scientist" / "roster.toml").write_text(other_roster)

    async def work() -> None:
        async with running(here, silos=()) as (_, coordinator):
            with pytest.raises(TrustError, match="roster: the caller has pinned"):
                await asyncio.to_thread(asked, coordinator)

    run(work)
    assert files(here) == []


def test_a_caller_that_takes_nothing_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two callers stop reading in the middle of a model; they are given up, and the next one is served."""
    monkeypatch.setattr("coordinator.control.PIECE_SECONDS", 0.5)
    here, weights = hospitals(tmp_path / "f", 3), np.arange(4_000_000.0)

    def fetch(coordinator: Coordinator, run: str) -> None:
        with dialled(here, "scientist") as opened:
            channel: Any = opened
            stalled = [
                channel.unary_stream(f"/{CONTROL}/Model")(encode(Of(run)), timeout=60)
                for _ in range(MAX_SENDING)
            ]
            for stream in stalled:
                assert decode(next(stream), Weights).length == weights.size
            with pytest.raises(UsageError, match="are being fetched already"):
                coordinator.model(run)
            fetched: Any = None
            for _ in range(10_000):  # Each a call: they are refused until those two were given up.
                with suppress(UsageError):
                    fetched = coordinator.model(run)
                    break
            assert np.array_equal(fetched, weights)
            for stream in stalled:
                with pytest.raises(grpc.RpcError) as late:
                    list(stream)
                error: Any = late.value
                assert "too slow to take" in error.details()

    async def work() -> None:
        async with running(here, silos=()) as (_, coordinator):
            run = await asyncio.to_thread(asked, coordinator, weights)
            await asyncio.to_thread(fetch, coordinator, run)

    run(work)


def test_a_watcher_that_paused_goes_on_and_misses_no_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More happens than the connection holds while it takes nothing: it is given up, and comes back."""
    import coordinator.control as control

    here, sums = hospitals(tmp_path / "f", 3), 3000
    given_up, everything = threading.Event(), threading.Event()
    abort = control._abort_late

    async def aborting(context: Any) -> None:
        given_up.set()
        await abort(context)

    monkeypatch.setattr(control, "PIECE_SECONDS", 0.5)
    monkeypatch.setattr(control, "_abort_late", aborting)

    class Paused(Told):
        def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
            assert given_up.wait(60)
            super().round_finished(report, metrics)
            if report.round == sums:
                everything.set()

    async def work() -> None:
        async with running(here, silos=()) as (serves, coordinator):
            run, told, waits = await asyncio.to_thread(asked, coordinator), Paused(), list[str]()
            for number in range(1, sums + 1):
                (await serves.runs.feed(run)).round_finished(replace(REPORT, round=number), {"loss": 0.5})
            watching = asyncio.create_task(
                asyncio.to_thread(coordinator.watch, run, told, waiting=waits.append)
            )
            assert await asyncio.to_thread(everything.wait, 60)
            await asyncio.to_thread(coordinator.halt, run)
            assert (await watching).state == "stopped"
            assert [call[1] for call in told.finished()] == list(range(1, sums + 1))
            assert not any("cannot be reached" in text for text in waits)

    run(work)
    assert given_up.is_set()


def test_a_disk_that_cannot_be_read_is_said_to_who_fetches_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = hospitals(tmp_path / "f", 3)

    def unreadable(weights: object) -> Iterator[bytes]:
        raise Unreadable("the disk cannot be read")
        yield b""

    async def work() -> None:
        async with running(here, silos=()) as (_, coordinator):
            run = await asyncio.to_thread(asked, coordinator)
            monkeypatch.setattr("coordinator.control.pieces", unreadable)
            with pytest.raises(EnvironmentFault, match="broke the call off: the coordinator's disk"):
                await asyncio.to_thread(coordinator.model, run)

    run(work)


def test_health_is_told_to_whoever_has_a_certificate(tmp_path: Path) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    here = hospitals(tmp_path / "f", 3)
    serves, unknown = health_pb2.HealthCheckResponse.SERVING, grpc.StatusCode.NOT_FOUND

    def check(party: str, service: str) -> Any:
        with dialled(here, party) as opened:
            request = health_pb2.HealthCheckRequest(service=service)
            return health_pb2_grpc.HealthStub(opened).Check(request, timeout=30).status

    async def work() -> None:
        async with running(here, silos=()):
            for service in ("", "secagg.v1.Silos", CONTROL):
                assert await asyncio.to_thread(check, "silos/north", service) == serves
            with pytest.raises(grpc.RpcError) as caught:
                await asyncio.to_thread(check, "operator", "secagg.v2")
            refused: Any = caught.value
            assert refused.code() is unknown

    run(work)


def test_another_authoritys_coordinator_is_not_trusted(tmp_path: Path) -> None:
    here, other = hospitals(tmp_path / "f", 3), hospitals(tmp_path / "g", 3)

    async def work() -> None:
        async with running(here, silos=()):
            with (
                Coordinator(here.config.listen, credentials=other.folder / "scientist") as stranger,
                pytest.raises(TrustError, match="is not the coordinator of this authority"),
            ):
                await asyncio.to_thread(stranger.status)

    run(work)


def test_where_nobody_listens_is_said(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f", 3)
    with here.person() as coordinator:
        for ask in (coordinator.status, coordinator.runs, lambda: coordinator.watch("abc", Told())):
            with pytest.raises(EnvironmentFault, match=r"cannot be reached\. Look whether `coordinator up`"):
                ask()
        with pytest.raises(EnvironmentFault, match="cannot be reached"):
            asked(coordinator)


VECTOR = np.arange(5.0)
GOOD = weights_of(Payload.of(VECTOR))
NONE = bytes(32)
OPENING = b"Start, with the roster of the test"


@pytest.mark.parametrize(
    ("name", "frames", "expected"),
    [
        ("Start", [], "the call ended before all of it was sent"),
        ("Start", [b"\x80\x04."], "not a message of the control API"),
        ("Start", [encode(Start(request(), Weights(MAX_WEIGHTS + 1, bytes(32)), NONE))], "not a message"),
        ("Start", [encode(Start(request(), Weights(0, bytes(32)), NONE))], "not a message"),
        ("Start", [encode(Start(request(rounds=0), GOOD, NONE))], "not a message"),
        ("Start", [OPENING, VECTOR.tobytes()[:8]], "before all of it was sent"),
        ("Start", [OPENING, VECTOR.tobytes() + b"x"], "a piece of 41 bytes"),
        ("Start", [OPENING, b""], "a piece of 0 bytes"),
        ("Start", [OPENING, bytes(40)], "not those whose digest was announced"),
        ("Watch", [b""], "not a message"),
        ("Model", [encode({"run": "x" * 17})], "not a message"),
        ("Halt", [encode({"run": "x", "more": 1})], "not a message"),
        ("Status", [encode(["x"])], "not a message"),
    ],
)
def test_what_is_no_request_is_refused(name: str, frames: list[bytes], expected: str, tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f", 3)

    async def work() -> None:
        async with running(here, silos=()) as (_, coordinator):
            start = encode(Start(request(), GOOD, here.roster.digest))
            sent = [start if frame == OPENING else frame for frame in frames]
            reply = decode(await asyncio.to_thread(call, here, "scientist", name, sent), Failed)
            assert reply.kind == "MalformedMessage"
            assert expected in str(reply.error())
            assert await asyncio.to_thread(coordinator.runs) == ()

    run(work)
    assert files(here) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"silos": 9}, "silos is 9; the roster has 4"),
        ({"clip": -1.0}, "clip"),
        ({"layout": (("w", (4,)),)}, "the layout is of 4 weights, the model has 5"),
        (
            {"scheme": request(scheme=msgspec.structs.replace(request().scheme, threshold=9)).scheme},
            "t = 9|threshold",
        ),
    ],
)
def test_what_no_run_can_have_is_refused_as_in_one_process(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    here = hospitals(tmp_path / "f")

    async def work() -> None:
        async with running(here, silos=()) as (_, coordinator):
            with pytest.raises(ParameterError, match=expected) as caught:
                await asyncio.to_thread(asked, coordinator, **changes)
            assert caught.value.__notes__[0].startswith("x SA-2")
            with pytest.raises(InputRefused, match="NaN"):
                await asyncio.to_thread(coordinator.start, request(), np.array([np.nan]))

    run(work)
    assert files(here) == []


# --- from Python --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"app": None}, "app is None"),
        ({"app": "no path"}, "app is"),
        ({"initial": None}, "initial is None"),
        ({"metrics": None}, "metrics is None"),
        ({"name": "a b"}, "name: 1 to 64"),
        ({"clip": -1}, "clip"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_what_a_remote_run_needs_is_asked_for_first(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    here = hospitals(tmp_path / "f", 3)
    with here.person() as coordinator, pytest.raises(ParameterError, match=expected):
        here.federation(coordinator, **changes)


@pytest.mark.parametrize("named", [{"dropouts": {1: {"north": "Training"}}}, {"view": object()}])
def test_dropouts_and_views_are_for_one_process(named: dict[str, Any], tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f", 3)
    with here.person() as coordinator, pytest.raises(ParameterError, match="these are real ones"):
        here.federation(coordinator).run(1, progress=False, **named)


def test_ctrl_c_ends_the_watching_and_not_the_run(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f")

    class Stopped(Told):
        def round_started(self, round_number: int, *, attempt: int = 1) -> None:
            raise KeyboardInterrupt

    async def work() -> None:
        async with running(here) as (_, coordinator):
            federation, caught = here.federation(coordinator), list[KeyboardInterrupt]()

            def stopped() -> None:
                try:
                    federation.run(ROUNDS, progress=Stopped())
                except KeyboardInterrupt as interrupt:
                    caught.append(interrupt)

            await asyncio.to_thread(stopped)
            (shown,) = await asyncio.to_thread(coordinator.runs)
            assert caught[0].__notes__[0].startswith(f"run {shown.run} goes on at the coordinator")
            outcome = await asyncio.to_thread(coordinator.watch, shown.run, Told())
            assert outcome.state == "completed"

    run(work)


# --- errors and feeds ---------------------------------------------------------------------------------------

ERRORS: tuple[tuple[SecaggError, type[SecaggError]], ...] = (
    (TooFewSilos(3, 4, "Unmasking", ("west",)), TooFewSilos),
    (FaultySilo("west", "its shares", dealer=True), FaultySilo),
    (PolicyRefused("lock", "text", ("a", "b")), PolicyRefused),
    (InputRefused("nan", "text"), InputRefused),
    (ParameterError("text", parameter="t"), ParameterError),
    (EnvironmentFault("text"), EnvironmentFault),
    (MissingExtra("plot", "matplotlib"), EnvironmentFault),
    (MalformedMessage("text"), MalformedMessage),
    (RoundAborted("text"), RoundAborted),
    (RunStopped("text"), RunStopped),
    (TrustError("text"), TrustError),
    (errors.TrainerFailed("west", "text"), UsageError),
    (errors.FaultyCoordinator("text"), errors.FaultyCoordinator),
    (errors.PrivacyBudgetExhausted("text"), errors.PrivacyBudgetExhausted),
)


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda value: str(value))
def test_an_error_arrives_as_it_left(error: SecaggError, kind: type[SecaggError]) -> None:
    back = decode(encode(Failed.of(error)), Failed).error()
    assert isinstance(back, kind)
    assert exit_code(back) == exit_code(error)
    assert str(back) == str(error)
    assert back.__notes__ == error.__notes__
    if type(back) is type(error):
        assert vars(back) == vars(error)


@pytest.mark.parametrize(
    "failed", [Failed("SystemExit", {"text": "x"}, ""), Failed("TooFewSilos", {"text": "x"}, "")], ids=str
)
def test_an_error_that_is_not_in_the_table_is_none(failed: Failed) -> None:
    with pytest.raises(MalformedMessage):
        failed.error()


def test_a_feed_keeps_how_things_stand_and_not_how_they_came_there() -> None:
    async def work() -> None:
        feed = Feed(RunStarted("r", "job", ("a",), ("Training",), 2))
        feed.round_started(1)
        for _ in range(1000):
            feed.silo_phase("a", "Training", "working")
            feed.silo_phase("a", "Training", "lost")
        await asyncio.sleep(0)
        late = feed.follow()
        assert [type(await anext(late)) for _ in range(2)] == [RunStarted, RoundStarted]
        assert await anext(late) == SiloPhase("a", "Training", "lost")
        feed.round_finished(RECORD.report, RECORD.metrics)
        feed.round_started(2, attempt=3)
        feed.ended(Ended("halted", 4, "text"))
        assert await anext(late) == RoundFinished(RECORD)
        assert await anext(late) == RoundStarted(2, 3)
        assert await anext(late) == Ended("halted", 4, "text")
        assert [event async for event in late] == []
        seen = [type(event) async for event in feed.follow(1)]
        assert seen == [RunStarted, RoundStarted, Ended]

    run(work)


def test_what_a_person_may_know_has_no_key_in_it(tmp_path: Path) -> None:
    here = hospitals(tmp_path / "f", 3)
    with here.person() as coordinator:
        assert repr(coordinator) == f"Coordinator(grpcs://{coordinator.address})"


def test_what_is_being_written_is_written_however_often_the_run_is_stopped() -> None:
    """A second stop must not let another run begin while a checkpoint is half written."""
    began, go_on, written = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        go_on.wait(30)
        written.set()

    async def test() -> None:
        task = asyncio.create_task(_undisturbed(write))
        await asyncio.to_thread(began.wait, 30)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert written.is_set()

    asyncio.run(test())
