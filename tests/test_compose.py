"""The example with containers, without them: its commands as processes, its Dockerfile in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import secagg
from coordinator.job_file import JobFile
from examples.compose.app import APP, FEATURES, trainer
from examples.compose.setup import PATIENTS
from examples.processes import free_port
from silo.app import source_hash

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "compose"
BIN = Path(sys.executable).parent
SERVERS = ("coordinator", "north", "south", "west")
SECONDS = 120.0
WHERE = """
import secagg, silo, coordinator, examples.compose.app as app
for module in (secagg, silo, coordinator, app):
    print(module.__file__)
"""
COMPOSE: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile, an instruction and its arguments each."""
    lines = (EXAMPLE / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return [
        (word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word not in {"", "#"}
    ]


def image_environment() -> dict[str, str]:
    """Return what ENV sets."""
    return dict(
        part.partition("=")[::2] for word, rest in instructions() if word == "ENV" for part in rest.split()
    )


class Stage:
    """The services' commands where /federation is ``folder``, and host and user are those of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "federation"
        self.folder.mkdir()
        self.port = free_port()
        self.job = folder / "job.toml"
        job = (EXAMPLE / "job.toml").read_text(encoding="utf-8")
        self.job.write_text(job.replace("/federation", str(self.folder)), encoding="utf-8")
        self.environment = {
            "HOME": str(folder),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": image_environment()["PYTHONPATH"].replace("/app", str(ROOT)),
            "COLUMNS": "110",
        }

    def command(self, service: str) -> list[str]:
        text: str = COMPOSE["services"][service]["command"]
        for written, here in (
            ("/federation", str(self.folder)),
            ("--host coordinator", f"--host localhost --port {self.port}"),
            ("--owner 1000", f"--owner {os.getuid()}"),
            ("examples/compose/job.toml", str(self.job)),
        ):
            text = text.replace(written, here)
        return shlex.split(text)

    def run(self, service: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(service),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    @contextmanager
    def started(self, service: str) -> Iterator[subprocess.Popen[str]]:
        """Run a service for the block; SIGTERM, as ``docker compose stop`` sends it, must end it in order."""
        with (self.folder.parent / f"{service}.log").open("w") as log:
            process = subprocess.Popen(
                self.command(service),
                cwd=ROOT,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            yield process
            process.terminate()
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    setup = made.run("setup")
    assert setup.returncode == 0, setup.stderr
    return made


def test_every_service_types_a_command_that_there_is_on_files_that_setup_makes(stage: Stage) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for service in COMPOSE["services"]:
        command, *rest = stage.command(service)
        assert command in {*scripts, "python"}
        if service != "setup":
            assert (command, rest[0]) in {("coordinator", "up"), ("silo", "run"), ("coordinator", "run")}
            named = [Path(part) for part in rest if part.startswith(str(stage.folder))]
            assert named
            assert [path for path in named if not path.exists()] == []
    assert set(COMPOSE["services"]) == {*SERVERS, "setup", "scientist"}
    assert JobFile.load(stage.job).initial.exists()


def test_setup_is_done_once(stage: Stage) -> None:
    before = {path: path.read_bytes() for path in stage.folder.rglob("*") if path.is_file()}
    again = stage.run("setup")
    assert again.returncode == 0
    assert "is there already" in again.stdout
    assert before == {path: path.read_bytes() for path in stage.folder.rglob("*") if path.is_file()}


def test_the_services_open_every_round_and_leave_a_model(stage: Stage) -> None:
    with ExitStack() as stack:
        first, *silos = SERVERS
        coordinator = stack.enter_context(stage.started(first))
        assert coordinator.stdout is not None
        assert any("ready in" in line for line in coordinator.stdout)
        for silo in silos:
            stack.enter_context(stage.started(silo))
        scientist = stage.run("scientist")
        assert scientist.returncode == 0, f"{scientist.stdout}\n{scientist.stderr}"
    (model,) = re.findall(r"^  model  (.+)$", scientist.stdout, re.MULTILINE)
    weights = load_file(model)["weights"]
    assert weights.shape == (FEATURES + 1,)
    everybody = [trainer(seed=seed, patients=n) for seed, n in enumerate(PATIENTS.values())]
    accuracies = [one.evaluate(weights.astype(np.float64)).metrics["accuracy"] for one in everybody]
    assert min(accuracies) > 0.7, accuracies  # A guess is right in half of them.


@pytest.mark.full
def test_the_image_is_built_from_what_is_copied_alone(tmp_path: Path) -> None:
    app, home = tmp_path / "app", tmp_path / "home"
    for folder in (app, home):
        folder.mkdir()
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in ours} | {
        "HOME": str(home)
    }
    context = sent_to_the_builder()
    for instruction, rest in instructions():
        match instruction:
            case "COPY":
                *sources, target = rest.split()
                copy([context[source] for source in sources], app, target)
            case "RUN":
                done = subprocess.run(
                    ["/bin/sh", "-c", rest],
                    cwd=app,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{rest}\n{done.stdout}\n{done.stderr}"
            case "ENV":
                for name, value in image_environment().items():
                    environment[name] = value.replace("/app", str(app)).replace("$PATH", environment["PATH"])
            case _:
                assert instruction in {"FROM", "WORKDIR", "USER"}
    for script in ("secagg", "silo", "coordinator"):
        said = subprocess.run(
            [script, "--version"], cwd=app, env=environment, capture_output=True, text=True, check=True
        )
        assert said.stdout == f"{script} {secagg.__version__}\n"
    found = subprocess.run(
        ["python", "-c", WHERE], cwd=home, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(path.startswith(str(app / "venv")) for path in found[:3]), found
    assert found[3] == str(app / "examples" / "compose" / "app.py")
    hashed = subprocess.run(
        ["silo", "app", "hash", APP], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert hashed.stdout == source_hash(APP) + "\n", hashed.stderr


def sent_to_the_builder() -> dict[str, Path]:
    """Return what .dockerignore lets through: nothing but what it names after ``!``."""
    first, *others = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    return {line.removeprefix("!"): ROOT / line.removeprefix("!") for line in others if line.startswith("!")}


def copy(sources: list[Path], app: Path, target: str) -> None:
    """Copy as a builder does: files into a folder, a folder's content as the target."""
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, app / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (app / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, app / target)
