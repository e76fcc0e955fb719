"""The command ``coordinator``: what it prints, and which exit code it means."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coordinator import cli
from coordinator.model_file import write_model
from secagg.address import split_address
from secagg.learning.model import GlobalModel
from secagg.learning.remote import Outcome
from secagg.policy import Policy
from tests.learners import fails
from tests.loopback.hospitals import INITIAL, Hospitals, hospitals
from tests.loopback.test_control import Process

JOB = """\
name = "brains"
rounds = 2
app = "hospital.training:trainer"
initial = "initial.safetensors"
metrics = ["loss"]
[numbers]
weight_cap = 1000.0
least_total_weight = 100.0
[training]
seed = 7
"""
HEAVY = {"grpc", "sqlalchemy", "pydantic", "rich", "cryptography", "structlog", "msgspec"}


def typed(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Type a command and return what it printed."""
    command = [sys.executable, "-c", "from coordinator.cli import main; main()", *map(str, words)]
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    done.stderr = done.stderr.replace("\n           ", " ")  # Lines are wrapped between words.
    return done


@contextmanager
def up(here: Hospitals) -> Iterator[Process]:
    process = Process(here)
    try:
        yield process
    finally:
        process.kill()


def with_silos(here: Hospitals, work: Callable[[], object]) -> None:
    """Do ``work`` in a thread while the silos speak."""

    async def both() -> None:
        here.connect()
        try:
            await asyncio.to_thread(work)
        finally:
            await here.disconnect()

    asyncio.run(both())


@pytest.fixture
def here(tmp_path: Path) -> Hospitals:
    made = hospitals(tmp_path / "f")
    job(tmp_path)
    return made


def job(folder: Path, text: str = JOB) -> Path:
    write_model(folder / "initial.safetensors", GlobalModel(1, INITIAL), ())
    (folder / "job.toml").write_text(text)
    return folder / "job.toml"


# --- help and files -----------------------------------------------------------------------------------------


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from coordinator.cli import app; from typer.testing import CliRunner;"
        "r = CliRunner().invoke(app, ['run', '--help']); assert r.exit_code == 0, r.output;"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_of_the_library() -> None:
    from secagg import __version__

    assert typed("--version").stdout == f"coordinator {__version__}\n"


def test_develop_makes_a_federation_and_says_that_it_protects_nobody(tmp_path: Path) -> None:
    done = typed("develop", tmp_path / "f", "--silos", "a, b,c", "--listen", "127.0.0.1:7000")
    assert "one place has made all keys, so it protects nobody" in done.stdout
    assert re.findall(r"^  ([abc]) +(?:[0-9A-F]{4} ?){8}$", done.stdout, re.MULTILINE) == ["a", "b", "c"]
    assert (tmp_path / "f" / "coordinator" / "coordinator.toml").exists()
    assert "is there already" in typed("develop", tmp_path / "f", "--silos", "a,b,c", code=3).stderr


def test_a_configuration_that_is_wrong_is_a_usage_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "coordinator.toml").write_text('federation = "f"\nlissen = "x"\n')
    told = typed("up", "--config", tmp_path / "coordinator.toml", code=2).stderr
    assert "line 2: lissen is no key of this file; did you mean listen?" in told
    assert "x SA-3001" in typed("up", "--config", tmp_path / "none.toml", code=3).stderr


# --- up -----------------------------------------------------------------------------------------------------


def test_up_says_what_it_serves_and_leaves_no_lock(here: Hospitals) -> None:
    for new in (" new", ""):
        process = Process(here)
        said = process.said
        try:
            assert said[0].split()[:2] == ["state", str(here.state / "state.sqlite3")]
            assert said[0].endswith("state.sqlite3" + new)
            address = f"grpcs://{here.config.listen}"
            assert said[1].split()[:2] == ["silos", address]
            assert said[2].split()[:2] == ["control", address]
            assert re.fullmatch(
                r"  ready in \d+\.\d s, 0 of 4 silos\. Ctrl-C stops, nothing is lost", said[-1]
            )
            assert process.stop(signal.SIGTERM) == 0
        finally:
            process.kill()


def test_a_port_in_use_is_said_with_what_to_do(here: Hospitals) -> None:
    host, port = split_address(here.config.listen)
    with socket.create_server((host, port)):
        told = typed("up", "--config", here.config_file, code=3).stderr
    assert f"{host}:{port} cannot be listened on: another process has the port" in told
    assert f"ss -ltnp 'sport = :{port}'" in told


def test_a_second_coordinator_on_the_folder_is_refused(here: Hospitals) -> None:
    with up(here) as first:
        told = typed("up", "--config", here.config_file, code=3).stderr
        assert f"in use by another coordinator, process {first.pid}" in told


def test_a_state_folder_that_cannot_be_made_is_said(here: Hospitals) -> None:
    here.state.write_text("a file")
    assert "cannot be written" in typed("up", "--config", here.config_file, code=3).stderr


# --- keys ---------------------------------------------------------------------------------------------------


def test_who_asks_for_a_small_key_is_told(tmp_path: Path) -> None:
    make = ("key", "make", "--credentials", tmp_path, "--scheme")
    warning = "a Paillier key of 2048 bits has less than 128 bits of security: take 3072\n"
    for scheme in ("paillier", "threshold-paillier"):
        assert typed(*make, scheme, "--size", "2048", code=3).stderr.startswith(warning)
        assert "security" not in typed(*make, scheme, "--size", "3072", code=3).stderr
    assert "security" not in typed(*make, "ckks", "--size", "2048", code=3).stderr


# --- runs ---------------------------------------------------------------------------------------------------


def test_the_exit_code_of_a_run_is_its_verdict(here: Hospitals, tmp_path: Path) -> None:
    person = ("--credentials", here.folder / "scientist")

    def work() -> None:
        done = typed("run", "start", tmp_path / "job.toml", "--wait", *person)
        lines = done.stdout.splitlines()
        run = lines[0].split()[1]
        assert lines[0] == f"run {run}  brains"
        assert [line.split("  ")[0] for line in lines[1:4]] == ["round 1/2", "round 2/2", "final"]
        assert lines[4] == "completed: 2 rounds, 4 of 4 silos in the smallest sum"
        for line, name in zip(lines[5:], ("model.safetensors", "model.card.json"), strict=True):
            path = Path(line.split()[1])
            assert path == here.state / "runs" / run / name
            assert path.exists()
        assert "completed: 2 rounds" in typed("run", "watch", run, *person).stdout
        listed = typed("runs", *person).stdout.splitlines()
        assert listed[1].split()[:4] == [run, "brains", "completed", "2/2"]
        assert listed[1].endswith("scientist:scientist")
        status = typed("status", *person).stdout
        assert status.count("connected") == 4
        assert "no run is under way" in status
        assert "nothing left to do" in typed("run", "resume", run, *person, code=2).stderr

    with up(here):
        with_silos(here, work)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"spoiled": {"north": fails}}, 8, "degraded: 2 rounds, 3 of 4 silos"),
        ({"spoiled": {"north": fails, "west": fails}}, 4, "x SA-4102  round 1 halted: 2 of 4 silos answered"),
        (
            {"policies": dict.fromkeys(("north", "west"), Policy(max_clip=1.0, min_weight_cap=1000.0))},
            6,
            "x SA-6007  north and west refused round 1",
        ),
    ],
    ids=["degraded", "halted", "refused"],
)
def test_a_verdict_that_is_not_complete(
    change: dict[str, object], code: int, said: str, tmp_path: Path
) -> None:
    here = hospitals(tmp_path / "f", **change)  # type: ignore[arg-type]
    path = job(tmp_path)

    def work() -> None:
        done = typed("run", "start", path, "--wait", "--credentials", here.folder / "scientist", code=code)
        assert said in done.stdout + done.stderr
        assert ("model.safetensors" in done.stdout) == (code == 8)

    with up(here):
        with_silos(here, work)


def test_a_run_is_halted_and_goes_on_by_name(here: Hospitals, tmp_path: Path) -> None:
    person = ("--credentials", here.folder / "operator")
    with up(here):
        started = typed("run", "start", tmp_path / "job.toml", *person).stdout
        run = started.split()[1]
        assert f"watch it: coordinator run watch {run}" in started
        assert f"run {run} (brains), round 1 of 2" in typed("status", *person).stdout
        told = typed("run", "start", tmp_path / "job.toml", *person, code=2).stderr
        assert f"run {run} (brains) is under way" in told
        assert f"coordinator run resume {run}" in typed("run", "halt", run, *person).stdout
        assert "x SA-4103" in typed("run", "watch", run, *person, code=4).stderr
        assert typed("runs", *person).stdout.splitlines()[1].split()[2] == "stopped"

        def resumed() -> None:
            done = typed("run", "resume", run, "--wait", *person)
            assert done.stdout.startswith(f"run {run} goes on\n")
            assert "completed: 2 rounds" in done.stdout

        with_silos(here, resumed)


def test_ctrl_c_on_a_watch_says_how_to_go_on(here: Hospitals, tmp_path: Path) -> None:
    person = ("--credentials", here.folder / "scientist")
    with up(here):
        run = typed("run", "start", tmp_path / "job.toml", *person).stdout.split()[1]
        # A job in the background begins with Ctrl-C ignored.
        heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        code = f"{heard}; from coordinator.cli import main; main()"
        command = [sys.executable, "-c", code, "run", "watch", run]
        with subprocess.Popen(
            [*command, *map(str, person)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as watching:
            assert watching.stderr is not None
            assert "waiting for north, south, west, east: 0 silos connected" in watching.stderr.readline()
            watching.send_signal(signal.SIGINT)
            _, told = watching.communicate(timeout=60)
            assert watching.returncode == 130
        assert f"run {run} goes on at the coordinator" in told
        assert f"coordinator run halt {run}" in told
        assert "Traceback" not in told
        assert typed("runs", *person).stdout.splitlines()[1].split()[2] == "running"


def test_where_no_coordinator_is_it_says_so(here: Hospitals, tmp_path: Path) -> None:
    person = ("--credentials", here.folder / "scientist")
    told = typed("run", "start", tmp_path / "job.toml", "--wait", *person, code=3).stderr
    assert "cannot be reached" in told
    assert "client.toml is not there" in typed("status", "--credentials", tmp_path, code=3).stderr


def test_a_verdict_without_a_model_at_the_coordinator_is_told_like_any_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "completed: 2 rounds\n  the model is at the silos alone: silo model show brains-1"

    class Watched:
        def watch(self, run: str, *_: object, **__: object) -> Outcome:
            return Outcome(run=run, state="completed", exit=0, text=text, records=())

    cli._watch(Watched(), "1")  # type: ignore[arg-type]  # All that is called of it.
    assert capsys.readouterr() == (text + "\n", "")
