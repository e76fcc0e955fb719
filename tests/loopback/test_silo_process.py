"""The process ``silo run``, started and stopped as by an operator; its coordinator is told what to send."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from structlog.testing import capture_logs

import silo.agent
from coordinator.authority import Authority
from coordinator.development import write_development_federation
from secagg import wire
from secagg.errors import FaultySiloOrCoordinator
from secagg.learning.model import GlobalModel
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import FedAvg
from secagg.messages import (
    BaseRequested,
    BaseSent,
    Message,
    PlainInput,
    PlainSum,
    Ready,
    Refused,
    RoundOpened,
    TrainingOpened,
    Voided,
    VoidRequested,
)
from secagg.payload import Payload
from secagg.policy import Policy
from secagg.roster import Roster
from secagg.session import Aggregate, Step
from secagg.terms import PlainParameters, Terms, training_digest
from secagg.weighting import plan_mean
from silo.agent import Agent
from silo.app import source_hash
from silo.config import SiloConfig
from tests.learners import next_model
from tests.loopback.scripted import Coordinator

import grpc  # isort: skip

SECONDS = 40
ROOT = Path(__file__).parent.parent.parent
SILOS = ("north", "south", "west")
WEIGHTS = 5
PLANTED = "patient 4711"
M = TypeVar("M")

APP = f"""
import numpy as np

from secagg.learning.trainer import Evaluation, Update


class Ward:
    def __init__(self, count, gate, fails):
        self.count, self.gate, self.fails = count, gate, fails

    def initial(self, seed):
        return np.random.default_rng(seed).normal(size={WEIGHTS})

    def train(self, weights, settings):
        with open(self.count, "a") as file:
            file.write("trained\\n")
        if self.gate:
            open(self.gate).read()  # A pipe: until somebody opens it to write.
        if self.fails:
            raise ValueError(self.fails)
        return Update(weights + 1.0, 10.0)

    def evaluate(self, weights):
        return Evaluation({{"loss": 0.5}}, 10.0)


def ward(count, gate="", fails=""):
    return Ward(count, gate, fails)
"""


@dataclass
class Site:
    """A development federation, of which ``north`` is the silo under test."""

    folder: Path
    roster: Roster
    port: int
    app: str

    @property
    def home(self) -> Path:
        return self.folder / "federation" / "silos" / "north"

    @property
    def trained(self) -> int:
        count = self.folder / "count"
        return count.read_text().count("trained") if count.exists() else 0

    def credentials(self) -> grpc.ServerCredentials:
        home = self.folder / "federation" / "coordinator"
        key, chain, authority = (
            (home / name).read_bytes() for name in ("coordinator.key", "coordinator.pem", "authority.pem")
        )
        return grpc.ssl_server_credentials([(key, chain)], authority, True)

    def coordinator(self, **faults: Any) -> Coordinator:
        return Coordinator(port=self.port, **faults)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "silo.cli",
            *arguments,
            cwd=self.home,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{self.folder / 'code'}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await self.start("run", "--log-level", "debug", *arguments)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def done(self, *arguments: str) -> tuple[int, str, str]:
        process = await self.start(*arguments)
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    def terms(self, model: GlobalModel, app: str | None = None) -> Terms:
        plan = TrainingPlan(strategy=FedAvg(), length=WEIGHTS, app=self.app if app is None else app)
        encoding = plan_mean(
            WEIGHTS,
            clip=8.0,
            cohort=len(SILOS),
            weight_cap=1000.0,
            least_total_weight=1.0,
            metrics=("loss",),
            word_bits=64,
        )
        return Terms(
            federation="development",
            job="job-1",
            round=model.round,
            kind="train",
            release=1,
            roster=self.roster.digest,
            base=model.digest,
            scheme=PlainParameters(),
            encoding=encoding,
            training=plan.settings(),
        )


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def build(folder: Path, monkeypatch: pytest.MonkeyPatch, **arguments: str) -> Site:
    package = folder / "code" / f"ward_{folder.name}"
    package.mkdir(parents=True)
    (package / "app.py").write_text(APP)
    monkeypatch.syspath_prepend(str(folder / "code"))
    app, port = f"{package.name}.app:ward", free_port()
    roster = write_development_federation(
        folder / "federation",
        SILOS,
        listen=f"127.0.0.1:{port}",
        policy=Policy(schemes=frozenset({"plain", "masking"}), min_silos=3, min_weight_cap=1000.0),
        apps={app: source_hash(app)},
        arguments={"north": {"count": str(folder / "count"), **arguments}},
    )
    return Site(folder, roster, port, app)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return build(tmp_path, monkeypatch)


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A silo whose training waits for the pipe ``gate``."""
    os.mkfifo(tmp_path / "gate")
    return build(tmp_path, monkeypatch, gate=str(tmp_path / "gate"))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    asyncio.run(limited())


def say(coordinator: Coordinator, message: Message) -> None:
    coordinator.send(wire.encode(message))


async def hear(coordinator: Coordinator, kind: type[M]) -> M:
    message = wire.decode_from_silo(*await coordinator.replies.get())
    assert isinstance(message, kind), message
    return message


def peak_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def base(number: int = 1) -> GlobalModel:
    return GlobalModel(number, np.linspace(-1.0, 1.0, WEIGHTS))


async def make_ready(coordinator: Coordinator, terms: Terms, model: GlobalModel) -> None:
    say(coordinator, TrainingOpened(terms, 60.0))
    assert (await hear(coordinator, BaseRequested)).base == model.digest
    say(coordinator, BaseSent(model.digest, Payload.of(model.to_payload())))
    assert (await hear(coordinator, Ready)).training == training_digest(terms)


async def open_round(
    coordinator: Coordinator, terms: Terms, model: GlobalModel, attempt: int = 1
) -> GlobalModel:
    """Open the sum of this silo alone and return the next model."""
    say(coordinator, RoundOpened(training_digest(terms), attempt, 60.0))
    vector = (await hear(coordinator, PlainInput)).vector.array()
    say(coordinator, PlainSum(training_digest(terms), ("north",), Payload.of(np.array(vector))))
    return next_model(terms, model, Aggregate(vector[:-1], ("north",)))


async def ended(process: asyncio.subprocess.Process, by: signal.Signals) -> tuple[int, str]:
    process.send_signal(by)
    _, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, err.decode()


def entries(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


# --- rounds -------------------------------------------------------------------------------------------------


def test_a_silo_trains_and_goes_on_from_the_sum_it_saw(site: Site) -> None:
    async def test() -> None:
        async with site.coordinator().serving(site.credentials()) as coordinator, site.running() as process:
            model = base()
            await make_ready(coordinator, site.terms(model), model)
            following = await open_round(coordinator, site.terms(model), model)
            np.testing.assert_allclose(following.weights, model.weights + 1.0, atol=1e-6)
            say(coordinator, TrainingOpened(site.terms(following), 60.0))
            await hear(coordinator, Ready)  # It computed the base itself.
            code, log = await ended(process, signal.SIGTERM)
        assert code == 0
        assert site.trained == 2
        assert {path.name for path in (site.home / "state").iterdir()} == {
            "journal.sqlite3",
            "lock",
            "vector",
        }
        ready = [entry for entry in entries(log) if entry.get("type") == "Ready"]
        assert [(entry["round"], entry["federation"], entry["silo"]) for entry in ready] == [
            (1, "development", "north"),
            (2, "development", "north"),
        ]

    run(test)


def test_a_payload_that_was_not_asked_for_costs_no_memory(site: Site) -> None:
    """Before any terms, and after them: 200 MiB that a silo with a model of a few weights has no use for."""
    size = 200 * 1024 * 1024

    async def test() -> None:
        async with site.coordinator().serving(site.credentials()) as coordinator, site.running() as process:
            model, vast = base(), (b"\x01", memoryview(bytes(size)))
            coordinator.send(vast)
            await make_ready(coordinator, site.terms(model), model)
            coordinator.send(vast)
            await open_round(coordinator, site.terms(model), model)
            assert peak_memory(process.pid) < size
            code, log = await ended(process, signal.SIGTERM)
        assert code == 0
        assert log.count("a payload was dropped that this silo has no use for now") == 2

    run(test)


def test_a_silo_that_is_killed_when_ready_trains_no_second_time(site: Site) -> None:
    async def test() -> None:
        async with site.coordinator().serving(site.credentials()) as coordinator:
            model = base()
            terms = site.terms(model)
            async with site.running() as process:
                await make_ready(coordinator, terms, model)
                await ended(process, signal.SIGKILL)
            await coordinator.until(lambda: coordinator.streams == 0)
            coordinator.restart()
            async with site.running() as process:
                await make_ready(coordinator, terms, model)
                following = await open_round(coordinator, terms, model, attempt=2)
                await coordinator.until(lambda: coordinator.outgoing.pending == 0)
                # The answer to this one shows that the sum before it was applied.
                say(coordinator, TrainingOpened(site.terms(following), 60.0))
                await hear(coordinator, Ready)
                assert site.trained == 2
                await ended(process, signal.SIGKILL)
            await coordinator.until(lambda: coordinator.streams == 0)
            coordinator.restart()
            async with site.running() as process:
                other = GlobalModel(following.round, following.weights + 1.0)
                say(coordinator, TrainingOpened(site.terms(other), 60.0))
                refused = await hear(coordinator, Refused)  # It knows which base it had computed.
                assert refused.rule == "faulty coordinator"
                await make_ready(coordinator, site.terms(following), following)
                assert site.trained == 2
                assert (await ended(process, signal.SIGTERM))[0] == 0

    run(test)


def test_the_line_lives_while_training_blocks(gated: Site) -> None:
    async def test() -> None:
        model = base()
        async with gated.coordinator().serving(gated.credentials()) as coordinator, gated.running():
            say(coordinator, TrainingOpened(gated.terms(model), 60.0))
            await hear(coordinator, BaseRequested)
            say(coordinator, BaseSent(model.digest, Payload.of(model.to_payload())))
            say(coordinator, VoidRequested((bytes(32),)))
            # Acknowledged, and not answered: training goes on.
            await coordinator.until(lambda: coordinator.outgoing.pending == 0)
            assert coordinator.replies.empty()
            with await asyncio.to_thread((gated.folder / "gate").open, "w"):
                pass
            await hear(coordinator, Ready)
            await hear(coordinator, Voided)

    run(test)


# --- refusals -----------------------------------------------------------------------------------------------


def test_an_app_that_is_not_approved_is_refused_by_rule_alone(site: Site) -> None:
    async def test() -> None:
        async with site.coordinator().serving(site.credentials()) as coordinator, site.running() as process:
            say(coordinator, TrainingOpened(site.terms(base(), app="os.path:join"), 60.0))
            assert await hear(coordinator, Refused) == Refused("app")
            await make_ready(coordinator, site.terms(base()), base())  # It is still there.
            _, log = await ended(process, signal.SIGTERM)
        (left,) = [entry for entry in entries(log) if entry["event"] == "left the round"]
        assert left["rule"] == "app"

    run(test)


@pytest.mark.parametrize("debug", [False, True])
def test_what_a_trainer_raised_stays_here_and_its_text_is_for_debugging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    site = build(tmp_path, monkeypatch, fails=PLANTED)

    async def test() -> None:
        options = ["--debug"] if debug else []
        model = base()
        async with (
            site.coordinator().serving(site.credentials()) as coordinator,
            site.running(*options) as process,
        ):
            say(coordinator, TrainingOpened(site.terms(model), 60.0))
            await hear(coordinator, BaseRequested)
            say(coordinator, BaseSent(model.digest, Payload.of(model.to_payload())))
            assert await hear(coordinator, Refused) == Refused("trainer")
            _, log = await ended(process, signal.SIGTERM)
        assert (PLANTED in log) == debug
        (raised,) = [entry for entry in entries(log) if entry["event"] == "the trainer raised"]
        assert raised["type"] == "ValueError"
        assert "in train" in raised["traceback"]

    run(test)


def test_no_weight_and_no_key_is_logged(site: Site) -> None:
    async def test() -> None:
        model = base()
        async with site.coordinator().serving(site.credentials()) as coordinator, site.running() as process:
            await make_ready(coordinator, site.terms(model), model)
            await open_round(coordinator, site.terms(model), model)
            _, log = await ended(process, signal.SIGTERM)
        known = {"event", "level", "timestamp", "silo", "federation", "job", "round", "type", "size", "app"}
        known |= {"coordinator", "after_seconds", "survivors", "state", "roster", "records"}
        for entry in entries(log):
            assert set(entry) <= known, entry
            assert all(
                isinstance(value, str | int | float) and len(str(value)) < 200 for value in entry.values()
            )
        for key in (site.home / "identity.pem", site.home / "silo.key"):
            assert key.read_text().splitlines()[1] not in log

    run(test)


# --- how it ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_stops_at_once_while_training_and_keeps_its_journal(
    gated: Site, by: signal.Signals, code: int
) -> None:
    async def test() -> None:
        model = base()
        async with gated.coordinator().serving(gated.credentials()) as coordinator:
            async with gated.running() as process:
                say(coordinator, TrainingOpened(gated.terms(model), 60.0))
                await hear(coordinator, BaseRequested)
                say(coordinator, BaseSent(model.digest, Payload.of(model.to_payload())))
                await coordinator.until(lambda: coordinator.outgoing.pending == 0)
                assert (await ended(process, by))[0] == code
            await coordinator.until(lambda: coordinator.streams == 0)
        assert not list((gated.home / "state").glob("*.new"))

    run(test)


def test_it_stops_while_it_waits_for_a_coordinator(site: Site) -> None:
    async def test() -> None:
        async with site.running() as process:
            assert process.stderr is not None
            async for line in process.stderr:
                if b"waiting for the coordinator" in line:
                    break
            assert f"127.0.0.1:{site.port}" in line.decode()
            assert (await ended(process, signal.SIGTERM))[0] == 0

    run(test)


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "certificate is revoked", 5),
        (grpc.StatusCode.FAILED_PRECONDITION, "roster: another", 5),
        (grpc.StatusCode.FAILED_PRECONDITION, "version: secagg 9.9.9", 3),
    ],
)
def test_a_refusal_ends_it_with_its_verdict(
    site: Site, status: grpc.StatusCode, text: str, code: int
) -> None:
    async def test() -> None:
        async with site.coordinator(refuse=(status, text)).serving(site.credentials()):
            ended_with, _, err = await site.done("run")
        assert ended_with == code
        assert text in " ".join(err.split())
        assert "x SA-" in err
        assert "Traceback" not in err

    run(test)


def test_a_certificate_is_read_again_for_every_stream(site: Site) -> None:
    """A renewed one is used from the next stream on."""
    authority = Authority.load(site.folder / "federation" / "authority")

    def renew() -> None:
        issued = authority.issue_silo("north")
        (site.home / "silo.key").write_bytes(issued.key)
        (site.home / "silo.pem").write_bytes(issued.certificate)

    async def test() -> None:
        async with site.coordinator().serving(site.credentials()) as coordinator, site.running() as process:
            await coordinator.until(lambda: len(coordinator.welcomes) == 1)
            first = coordinator.certificate
            renew()
            coordinator.restart()
            await coordinator.until(lambda: len(coordinator.welcomes) == 2)
            assert coordinator.certificate != first
            assert (await ended(process, signal.SIGTERM))[0] == 0

    run(test)


def test_a_second_process_and_another_roster_are_refused(site: Site) -> None:
    async def test() -> None:
        async with site.coordinator().serving(site.credentials()) as coordinator, site.running() as process:
            await coordinator.until(lambda: coordinator.streams == 1)
            code, _, err = await site.done("run")
            assert code == 3
            assert f"process {process.pid}" in err
            code, out, _ = await site.done("check")
            assert code == 0, out
            assert f"in use by process {process.pid}" in out
            await ended(process, signal.SIGTERM)
        roster = site.home / "roster.toml"
        first, *others = roster.read_text().split("[[silo]]")
        roster.write_text("[[silo]]".join([first, *reversed(others)]))
        code, _, err = await site.done("run")
        assert code == 5
        assert "silo roster pin" in err
        assert "failed  state: " in (await site.done("check"))[1]
        code, out, _ = await site.done("roster", "pin")
        assert (code, out.endswith("is pinned: west, south, north\n")) == (0, True)
        assert "ok      state: " in (await site.done("check"))[1]

    run(test)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_ends_it_before_anything_is_sent(site: Site) -> None:
    async def test() -> None:
        state = site.home / "state"
        state.mkdir(mode=0o700)
        mount = await asyncio.create_subprocess_exec(
            "mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", state
        )
        if await mount.wait() != 0:
            pytest.skip("no file system can be mounted here")
        try:
            async with site.coordinator().serving(site.credentials()) as coordinator:
                async with site.running() as process:
                    await coordinator.until(lambda: coordinator.streams == 1)
                    fill = await asyncio.create_subprocess_exec(
                        "dd", "if=/dev/zero", f"of={state / 'filler'}", stderr=asyncio.subprocess.DEVNULL
                    )
                    await fill.wait()
                    model = base()
                    say(coordinator, TrainingOpened(site.terms(model), 60.0))
                    await hear(coordinator, BaseRequested)
                    say(coordinator, BaseSent(model.digest, Payload.of(model.to_payload())))
                    _, err = await process.communicate()
                assert coordinator.replies.empty()
        finally:
            await (await asyncio.create_subprocess_exec("umount", "-l", state)).wait()
        assert process.returncode == 3
        assert "is full; free space and start again, nothing was sent" in " ".join(err.decode().split())

    run(test)


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        text = (home / "silo.toml").read_text()
        assert old in text
        (home / "silo.toml").write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("spoil", "code", "check"),
    [
        (replaced("min_silos", "min_silo"), 2, "configuration"),
        (lambda home: (home / "silo.toml").unlink(), 3, "configuration"),
        (lambda home: (home / "identity.pem").chmod(0o644), 3, "configuration"),
        (replaced('name = "north"', 'name = "south"'), 5, "identity, roster"),
        (lambda home: (home / "authority.pem").write_bytes(b""), 3, "certificates"),
    ],
    ids=["unknown key", "no file", "open key", "another's name", "no authority"],
)
def test_what_is_wrong_with_the_files_is_said_before_anything_is_dialled(
    site: Site, spoil: Callable[[Path], None], code: int, check: str
) -> None:
    async def test() -> None:
        spoil(site.home)
        ended_with, _, err = await site.done("run")
        assert (ended_with, "x SA-" in err, "Traceback" in err) == (code, True, False)
        ended_with, out, _ = await site.done("check")
        assert ended_with == code
        assert f"failed  {check}: " in out
        assert not (site.home / "state" / "journal.sqlite3").exists()

    run(test)


# --- the other commands -------------------------------------------------------------------------------------


def test_check_finds_everything_in_order_and_leaves_nothing_behind(site: Site) -> None:
    async def test() -> None:
        before = sorted(path.name for path in site.home.iterdir())
        async with site.coordinator().serving(site.credentials()):
            code, out, _ = await site.done("check")
        assert code == 0, out
        found = [line.partition(": ")[0] for line in out.splitlines()]
        assert [line.removeprefix("ok      ") for line in found] == [
            "configuration",
            "identity, roster",
            "certificates",
            "clock",
            f"app {site.app}",
            "state",
            "ledger",
            "intersections",
            "vertical jobs",
            "coordinator",
        ]
        assert sorted(path.name for path in site.home.iterdir()) == before

    run(test)


def test_check_says_which_keys_there_are_where_ciphertexts_are_allowed(site: Site) -> None:
    async def test() -> None:
        replaced('"masking"', '"masking", "ckks"')(site.home)
        async with site.coordinator().serving(site.credentials()):
            code, out, _ = await site.done("check")
            assert code == 0, out
            assert "ok      keys: ckks none here\n" in out
            keys = site.home / "state" / "keys"
            keys.mkdir(parents=True)
            (keys / "a.key").write_bytes(b"nothing")
            code, out, _ = await site.done("check")
        assert code == 3
        assert "failed  keys: " in out
        assert "a.key is damaged: take it away" in out

    run(test)


def test_check_says_what_is_missing(site: Site) -> None:
    async def test() -> None:
        source = next((site.folder / "code").rglob("app.py"))
        source.write_text(APP + "\n")
        code, out, _ = await site.done("check")
        assert code == 6
        assert f"failed  app {site.app}: app: its source is {source_hash(site.app)}" in out
        assert f"failed  coordinator: 127.0.0.1:{site.port} does not answer" in out

    run(test)


def test_the_hash_of_an_app_is_what_is_approved(site: Site) -> None:
    async def test() -> None:
        assert await site.done("app", "hash", site.app) == (0, source_hash(site.app) + "\n", "")
        code, _, err = await site.done("app", "hash", "no.such:app")
        assert (code, "x SA-3001" in err) == (3, True)

    run(test)


def test_the_roster_is_shown_with_fingerprints(site: Site) -> None:
    async def test() -> None:
        code, out, _ = await site.done("roster", "show")
        assert code == 0
        assert [line.rpartition("  ")[2] for line in out.splitlines()] == [*SILOS, "the whole roster"]

    run(test)


def test_the_first_weights_are_written_with_their_order(site: Site) -> None:
    async def test() -> None:
        out = site.folder / "initial.safetensors"
        options: Sequence[str] = ("--app", site.app, "--seed", "7", "--out", str(out))
        assert (await site.done("initial", *options))[:2] == (0, f"{out}  {WEIGHTS} weights\n")
        with safe_open(out, framework="np") as file:
            assert json.loads(file.metadata()["secagg.manifest"]) == ["weights"]
            expected = np.random.default_rng(7).normal(size=WEIGHTS)
            np.testing.assert_array_equal(file.get_tensor("weights"), expected)
        first = out.read_bytes()
        await site.done("initial", *options)
        assert out.read_bytes() == first
        code, _, _ = await site.done("initial", "--app", "os.path:join", "--seed", "7", "--out", str(out))
        assert code == 6
        assert {path.name for path in site.folder.iterdir()} == {"code", "federation", out.name}

    run(test)


def test_terms_are_encoded_as_every_silo_reads_them(site: Site) -> None:
    """What the coordinator above says is what a coordinator may say."""
    terms = site.terms(base())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(terms), type=Terms) == terms


def test_a_silo_that_has_nothing_to_do_gives_memory_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        idle = asyncio.Event()
        monkeypatch.setattr(silo.agent, "IDLE_SECONDS", 0.0)
        monkeypatch.setattr(silo.agent, "return_freed_memory", idle.set)
        with Agent(SiloConfig.load(site.home / "silo.toml")) as agent:
            task = asyncio.create_task(agent.run())  # Nothing serves at the coordinator's address.
            await idle.wait()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    run(test)


def test_a_silo_that_starts_takes_away_what_a_crash_left_of_a_key(site: Site) -> None:
    config = SiloConfig.load(site.home / "silo.toml")
    left = config.state / "keys" / "0123.new"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"secret")
    with Agent(config):
        assert not left.exists()


def test_a_silo_that_sealed_something_else_is_named_in_the_log(site: Site) -> None:
    class Doubting:
        """A participant that was sent what does not open, and asks another silo."""

        doubted = FaultySiloOrCoordinator("south", "the base model that it sealed: it does not open")
        attempt = 0

        def receive(self, message: Any) -> Any:
            return Step((), None)

        def proceed(self) -> None:
            return None

    with Agent(SiloConfig.load(site.home / "silo.toml")) as agent, capture_logs() as logs:
        participant: Any = Doubting()
        agent._participant = participant
        assert agent._answer(wire.encode(VoidRequested(()))) is None
    assert [entry for entry in logs if entry["log_level"] == "warning"] == [
        {
            "event": "asking another silo",
            "log_level": "warning",
            "silo": "south",
            "why": str(Doubting.doubted),
        }
    ]
