"""``coordinator.toml``, ``client.toml`` and ``job.toml``."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from coordinator.config import ClientConfig, CoordinatorConfig
from coordinator.job_file import JobFile, NumbersTable, StrategyTable, TrainingTable, WaitsTable
from secagg.errors import EnvironmentFault, ParameterError
from secagg.learning.federation import Federation
from secagg.learning.strategies import FedAdam, FedAvg, FedProx, FedYogi
from secagg.masking.params import Masking
from secagg.plain import Plain
from secagg.rounds.coordinator import RoundCoordinator

PRINT = "ab" * 32
COORDINATOR = f"""\
federation = "brains"
listen = "127.0.0.1:0"
state = "state"
memory_limit = 4_000_000_000
roster = "roster.toml"
[tls]
authority = "authority.pem"
certificate = "coordinator.pem"
key = "coordinator.key"
revoked = ["{PRINT}"]
"""
JOB = """\
name = "brains"
rounds = 3
app = "examples.medical_imaging.app:hospital"
initial = "initial.safetensors"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "coordinator.key").touch(0o600)
    return tmp_path


def coordinator(folder: Path, text: str) -> CoordinatorConfig:
    (folder / "coordinator.toml").write_text(text, encoding="utf-8")
    return CoordinatorConfig.load(folder / "coordinator.toml")


def job(folder: Path, text: str) -> JobFile:
    (folder / "job.toml").write_text(text, encoding="utf-8")
    return JobFile.load(folder / "job.toml")


# --- coordinator.toml and client.toml -----------------------------------------------------------------------


def test_a_right_file_loads_with_paths_from_its_own_folder(folder: Path) -> None:
    config = coordinator(folder, COORDINATOR)
    assert (config.federation, config.listen) == ("brains", "127.0.0.1:0")
    assert config.state == folder / "state"
    assert config.memory_limit == 4_000_000_000
    assert config.tls.authority == folder / "authority.pem"
    assert config.tls.revoked == {PRINT}


@pytest.mark.parametrize("form", [" ".join(["ABAB"] * 16), ":".join(["ab"] * 32), PRINT.upper()])
def test_a_revoked_fingerprint_may_be_grouped_as_it_is_read_out(folder: Path, form: str) -> None:
    assert coordinator(folder, COORDINATOR.replace(PRINT, form)).tls.revoked == {PRINT}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (PRINT, PRINT[:63], "line 10: tls.revoked 1: a fingerprint is 64 hex digits"),
        (PRINT, "x" + PRINT[1:], "line 10: tls.revoked 1: a fingerprint is 64 hex digits"),
        ('"brains"', '"brain s"', "line 1: federation: a name is 1 to 64"),
        ("127.0.0.1:0", "*:7443", "line 2: listen: an address is host:port"),
        ("listen", "listens", "line 2: listens is no key of this file; did you mean listen?"),
        ("revoked", "revokd", "line 10: revokd is no key of [tls]; did you mean revoked?"),
        ('state = "state"', "", "line 1: state is missing"),
        ("4_000_000_000", "0", "line 4: memory_limit is 0, must be at least 1"),
        ("4_000_000_000", '"4 GB"', "line 4: memory_limit"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(folder: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(ParameterError) as caught:
        coordinator(folder, COORDINATOR.replace(old, new, 1))
    assert str(caught.value).startswith(f"{folder / 'coordinator.toml'}, {expected}")


def test_a_key_that_others_may_read_is_refused(folder: Path) -> None:
    (folder / "coordinator.key").chmod(0o644)
    with pytest.raises(EnvironmentFault, match="chmod 600"):
        coordinator(folder, COORDINATOR)


def test_files_that_are_not_there_are_named(folder: Path) -> None:
    config = coordinator(folder, COORDINATOR)
    with pytest.raises(EnvironmentFault, match=r"roster\.toml is not there"):
        config.members()
    config.tls.key.unlink()
    with pytest.raises(EnvironmentFault, match=r"coordinator\.key is not there"):
        coordinator(folder, COORDINATOR)


def test_a_client_dials_a_real_port_with_a_key_of_its_own(folder: Path) -> None:
    text = (
        'coordinator = "h:7443"\nroster = "roster.toml"\n'
        '[tls]\nauthority = "a.pem"\ncertificate = "c.pem"\nkey = "coordinator.key"\n'
    )
    path = folder / "client.toml"
    path.write_text(text, encoding="utf-8")
    assert ClientConfig.load(path).tls.certificate == folder / "c.pem"
    path.write_text(text.replace("7443", "0"), encoding="utf-8")
    with pytest.raises(ParameterError, match=r"line 1: coordinator: the port of an address"):
        ClientConfig.load(path)
    path.write_text(text + f'revoked = ["{PRINT}"]', encoding="utf-8")
    with pytest.raises(ParameterError, match=r"line 7: revoked is no key of \[tls\]"):
        ClientConfig.load(path)
    path.write_text(text, encoding="utf-8")
    (folder / "coordinator.key").chmod(0o660)
    with pytest.raises(EnvironmentFault, match="chmod 600"):
        ClientConfig.load(path)


# --- job.toml -----------------------------------------------------------------------------------------------


def test_what_a_job_does_not_say_is_as_in_a_federation(folder: Path) -> None:
    plain = job(folder, JOB)
    defaults = {field.name: field.default for field in fields(Federation)}
    for table in (NumbersTable(), TrainingTable()):
        for name in type(table).model_fields:
            assert getattr(table, name) == defaults[name], name
    said = inspect.signature(RoundCoordinator).parameters
    waits = {"training_seconds": "training_seconds", "phase_seconds": "seconds", "attempts": "attempts"}
    assert set(WaitsTable.model_fields) == set(waits)
    for ours, theirs in waits.items():
        assert getattr(plain.waits, ours) == said[theirs].default
    assert plain.protection() == Masking()
    assert plain.strategy.strategy() == FedAvg()
    assert plain.initial == folder / "initial.safetensors"
    assert (plain.silos, plain.metrics) == (None, ())


def test_everything_that_a_job_says_is_kept(folder: Path) -> None:
    full = job(
        folder,
        JOB
        + """
metrics = ["dice", "loss"]
silos = 6
[masking]
colluders = 2
threshold = 5
min_honest = 3
[strategy]
name = "FedAdam"
server_learning_rate = 0.1
beta1 = 0.5
[training]
epochs = 2
learning_rate = 0.01
seed = 7
[numbers]
clip = 1
word_bits = 64
[waits]
attempts = 5
""",
    )
    assert full.protection() == Masking(colluders=2, threshold=5, min_honest=3)
    assert full.strategy.strategy() == FedAdam(0.1, beta1=0.5)
    assert full.training == TrainingTable(epochs=2, learning_rate=0.01, seed=7)
    assert full.numbers == NumbersTable(clip=1.0, word_bits=64)
    assert (full.metrics, full.silos, full.waits.attempts) == (("dice", "loss"), 6, 5)


def test_plain_is_a_word_that_must_be_said(folder: Path) -> None:
    assert job(folder, JOB + 'scheme = "plain"').protection() == Plain()


@pytest.mark.parametrize(
    ("table", "strategy"),
    [
        ({"name": "FedAvg", "server_learning_rate": 0.5}, FedAvg(0.5)),
        ({"name": "FedProx", "mu": 0.1}, FedProx(0.1)),
        ({"name": "FedYogi", "tau": 0.5, "beta2": 0.9}, FedYogi(tau=0.5, beta2=0.9)),
    ],
)
def test_every_strategy_can_be_named(table: dict[str, object], strategy: object) -> None:
    assert StrategyTable.model_validate(table).strategy() == strategy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[strategy]\nname = "FedAvg"\nmu = 1', "line 5: strategy: FedAvg has no mu; it takes"),
        ('[strategy]\nname = "FedProx"', "line 5: strategy: FedProx needs mu"),
        ('[strategy]\nname = "FedProx"\nmu = -1', "line 5: strategy: mu is -1"),
        ('[strategy]\nname = "FedAdm"', "line 6: strategy.name must be one of FedAvg, FedProx, Fed"),
        ("[masking]\nthreshold = 2", "line 5: masking: threshold is 2, must be at least 3"),
        ('scheme = "plain"\n[masking]\ncolluders = 1', 'line 1: [masking] is given, and scheme is "plain"'),
        ('scheme = "pailier"', "line 5: scheme must be one of masking, paillier, threshold-paillier, ckks"),
        ('scheme = "ckks"\n[masking]\ncolluders = 1', 'line 1: [masking] is given, and scheme is "ckks"'),
        ("[encryption]\ncolluders = 1", 'line 1: [encryption] is given, and scheme is "masking"'),
        ('metrics = ["a", "a"]', "line 1: metrics names one twice"),
        ("[numbers]\nclip = inf", "line 6: numbers.clip must be finite"),
        ("[numbers]\nword_bits = 16", "line 6: numbers.word_bits must be one of 32, 64"),
        ("[training]\nseed = -1", "line 6: training.seed is -1, must be at least 0"),
        ("[waits]\nattempts = 0", "line 6: waits.attempts is 0, must be at least 1"),
        ("clip = 1", "line 5: clip is no key of this file; it belongs in [numbers]"),
        ('path = "x"', "line 5: path is no key of this file; known are name, rounds, app"),
    ],
)  # fmt: skip
def test_a_wrong_job_is_refused_with_its_line(folder: Path, text: str, expected: str) -> None:
    with pytest.raises(ParameterError) as caught:
        job(folder, JOB + text)
    assert str(caught.value).startswith(f"{folder / 'job.toml'}, {expected}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("app:hospital", "app", "line 3: app: an app is"),
        ('"brains"', '"brain s"', "line 1: name: a job's name is"),
        ("rounds = 3", "rounds = 0", "line 2: rounds is 0, must be at least 1"),
    ],
)
def test_a_wrong_name_is_refused_with_its_line(folder: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(ParameterError, match=expected):
        job(folder, JOB.replace(old, new))
