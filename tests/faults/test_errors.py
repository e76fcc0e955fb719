"""What goes wrong with files, versions, disks, trainers and policies: its words and its exit code."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from coordinator.authority import Authority
from coordinator.model_file import write_model
from secagg import __version__
from secagg.learning.model import GlobalModel
from secagg.link.frames import PROTOCOL
from tests.faults.app import APP
from tests.faults.orders import Kill, Version
from tests.faults.world import Watched, World, initial, said

FAULTY = "south"
BYSTANDER = "west"
PLANTED = "patient 4711"
LABELS = ("x SA-", "  cause    ", "  safe     ", "  you can  ", "  they can ")


def check_shape(told: str, code: int) -> str:
    """Check the five lines and the exit code at their end; return the words."""
    lines = told[told.index("x SA-") :].splitlines()
    labels = [next(label for label in (*LABELS, "") if line.startswith(label)) for line in lines]
    assert [label for label in labels if label] == list(LABELS), told
    assert lines[-1].endswith(f"exit {code}"), told
    assert lines[0][5] == str(code), told  # The first digit of the code is the exit code.
    assert "Traceback" not in told
    return " ".join(told.split())


def refused_here(world: World, code: int) -> str:
    """Start a silo that is to end by itself, and return what it said."""
    return check_shape(world.typed("silo", "run", "--config", world.config(FAULTY), code=code), code)


def refused_when_checked(world: World, code: int) -> str:
    """Check the silo; return what is said of the coordinator."""
    told = world.typed("silo", "check", "--config", world.config(FAULTY), code=code)
    assert "Traceback" not in told
    return told[told.index("failed  coordinator: ") :]


@pytest.fixture
def spoilt(world: World) -> Iterator[World]:
    """Whose silo is stopped and gets its files back afterwards."""
    home = world.home(FAULTY)
    world.end(FAULTY)
    shutil.copytree(home, world.folder / "kept")
    yield world
    if FAULTY in world.running:
        world.end(FAULTY)
    shutil.rmtree(home)
    (world.folder / "kept").rename(home)


# --- who is who ---------------------------------------------------------------------------------------------


def test_a_silo_of_another_authority_is_refused_by_its_own_handshake(spoilt: World) -> None:
    other, home = Authority.create("another"), spoilt.home(FAULTY)
    issued = other.issue_silo(FAULTY)
    for name, content in (
        ("authority.pem", other.certificate),
        ("silo.pem", issued.certificate),
        ("silo.key", issued.key),
    ):
        (home / name).write_bytes(content)
    told = refused_here(spoilt, 5)
    assert "x SA-5001" in told
    assert f"the certificate of the coordinator at {spoilt.listen} is not one that the authority here" in told
    assert "is not one that the authority here signed" in refused_when_checked(spoilt, 5)


def test_a_silo_whose_certificate_is_revoked_is_told_so(own: World) -> None:
    own.end("coordinator")
    own.end(FAULTY)
    certificate = x509.load_pem_x509_certificate((own.home(FAULTY) / "silo.pem").read_bytes())
    path = own.config("coordinator")
    revoked = f'revoked = ["{certificate.fingerprint(hashes.SHA256()).hex()}"]'
    path.write_text(path.read_text().replace("revoked = []", revoked))
    own.start("coordinator")
    assert f"the certificate of silo {FAULTY} is revoked" in refused_here(own, 5)
    assert f"the certificate of silo {FAULTY} is revoked" in refused_when_checked(own, 5)


def test_a_certificate_of_another_authority_is_seen_before_anything_is_dialled(spoilt: World) -> None:
    (spoilt.home(FAULTY) / "authority.pem").write_bytes(Authority.create("another").certificate)
    before = spoilt["coordinator"].mark()
    assert "x SA-5001" in refused_here(spoilt, 5)
    assert not said(spoilt["coordinator"], "refused", start=before)


@pytest.mark.parametrize("pinned", [True, False])
def test_another_roster_is_refused_by_the_pin_or_by_the_coordinator(spoilt: World, pinned: bool) -> None:
    roster = spoilt.home(FAULTY) / "roster.toml"
    first, *others = roster.read_text().split("[[silo]]")
    roster.write_text("[[silo]]".join([first, *reversed(others)]))
    if not pinned:
        shutil.rmtree(spoilt.state(FAULTY))
    told = refused_here(spoilt, 5)
    assert ("silo roster pin" if pinned else f"roster: {FAULTY} has pinned") in told
    assert f"roster: {FAULTY} has pinned" in refused_when_checked(spoilt, 5)


def test_another_version_is_refused_and_both_are_named(spoilt: World) -> None:
    spoilt.order(FAULTY, Version("9.9.9", PROTOCOL + 1))
    spoilt.start(FAULTY)
    process = spoilt.running.pop(FAULTY)
    assert process.end() == 3
    told = check_shape(process.log, 3)
    assert f"this coordinator runs secagg {__version__} (protocol {PROTOCOL})" in told
    assert f"{FAULTY} runs secagg 9.9.9 (protocol {PROTOCOL + 1})" in told


# --- files and ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "key", "wrong", "command"),
    [
        ("silos/south/silo.toml", "identity", "identitty", ("silo", "run", "--config")),
        ("coordinator/coordinator.toml", "listen", "lisen", ("coordinator", "up", "--config")),
        ("scientist/job.toml", "rounds", "round", ("coordinator", "run", "start")),
        ("scientist/client.toml", "coordinator", "cordinator", ("coordinator", "status", "--credentials")),
    ],
    ids=["silo.toml", "coordinator.toml", "job.toml", "client.toml"],
)
def test_an_unknown_key_is_named_with_its_line_and_the_key_that_was_meant(
    lasting: World, file: str, key: str, wrong: str, command: tuple[str, ...]
) -> None:
    job(lasting, rounds=1)
    path = lasting.files / file
    text = path.read_text()
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith(f"{key} ="))
    path.write_text(text.replace(f"{key} =", f"{wrong} =", 1))
    try:
        given = path.parent if path.name == "client.toml" else path
        told = check_shape(lasting.typed(*command, given, code=2), 2)
    finally:
        path.write_text(text)
    assert f"{path.name}, line {line}: {wrong} is no key of this file; did you mean {key}?" in told


@pytest.mark.parametrize("command", ["silo", "coordinator"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.unlink(), id="absent", marks=pytest.mark.full),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id="a folder", marks=pytest.mark.full),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe\x00"), id="no text"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_said(
    tmp_path: Path, lasting: World, command: str, spoil: Callable[[Path], object]
) -> None:
    path = tmp_path / f"{command}.toml"
    path.write_text("")
    spoil(path)
    verb = "run" if command == "silo" else "up"
    told = check_shape(lasting.typed(command, verb, "--config", path, code=3), 3)
    assert str(path) in told


def test_a_port_in_use_is_said(lasting: World) -> None:
    second = lasting.files / "second.toml"
    first = lasting.config("coordinator").read_text()
    for name in ("roster.toml", "authority.pem", "coordinator.pem", "coordinator.key"):
        first = first.replace(f'"{name}"', f'"coordinator/{name}"')
    second.write_text(first.replace('"state"', '"second-state"'))
    told = check_shape(lasting.typed("coordinator", "up", "--config", second, code=3), 3)
    assert f"{lasting.listen} cannot be listened on: another process has the port" in told


# --- models, trainers, policies -----------------------------------------------------------------------------


def test_a_silo_with_another_base_model_keeps_out_and_the_others_go_on(spoilt: World) -> None:
    world = spoilt
    world.start(FAULTY)
    world.together(FAULTY)
    world.order(FAULTY, Kill("arrived", "Training", 2))
    go_on = world.shut(BYSTANDER, 2)
    run = world.begin(3)
    world.killed(FAULTY)
    database = sqlite3.connect(world.state(FAULTY) / "journal.sqlite3")
    with database:
        changed = database.execute("UPDATE model SET digest = zeroblob(32) WHERE round = 2").rowcount
    database.close()
    assert changed == 1
    world.start(FAULTY)
    world[FAULTY].saw('"rule": "FaultyCoordinator"', "is to start from another base model than the one here")
    go_on()
    outcome = run.outcome()
    assert (outcome.state, outcome.exit) == ("degraded", 8)
    assert [FAULTY in record.report.survivors for record in outcome.records] == [True, False, True, True]
    assert outcome.records[1].report.dropouts == {FAULTY: "refused: faulty coordinator"}
    assert "2" not in map(str, world.trained(FAULTY))  # It trained nothing from it.
    check_same(world, run, 3)


def test_a_trainer_that_raises_costs_its_silo_alone_and_its_words_stay_there(spoilt: World) -> None:
    world = spoilt
    change(world, FAULTY, "[data.arguments]\n", f'[data.arguments]\nfails = "{PLANTED}"\n')
    world.start(FAULTY)
    world.together(FAULTY)
    job(world, rounds=2)
    told = start_job(world, code=8)
    assert "degraded: 2 rounds, 3 of 4 silos in the smallest sum" in told
    assert f"{FAULTY} (refused: trainer)" in told
    raised = world[FAULTY].saw('"event": "the trainer raised"')
    assert '"type": "ValueError"' in raised
    assert "in train" in raised
    for text in (told, world["coordinator"].log, world[FAULTY].log):
        assert PLANTED not in text


@pytest.mark.full
def test_too_many_trainers_that_raise_halt_the_run(own: World) -> None:
    told = told_by_two(own, "[data.arguments]\n", f'[data.arguments]\nfails = "{PLANTED}"\n', code=4)
    assert "x SA-4102 round 1 halted: 2 of 4 silos answered, 3 are needed in Training" in told
    assert "east and south (refused: trainer)" in told
    assert not list(own.runs("").glob("*/model*"))
    assert PLANTED not in told


def test_a_refusal_reaches_the_run_with_its_rule_alone(own: World) -> None:
    told = told_by_two(own, "[policy.apps]", "max_clip = 0.0625\n\n[policy.apps]", code=6)
    assert "x SA-6007 south and east refused round 1: the clip is above its cap" in told
    assert "max_clip" in told
    assert "0.0625" not in told + own["coordinator"].log
    assert "0.0625" in own[FAULTY].saw('"rule": "max_clip"')  # Its own people may read it.


@pytest.mark.full
def test_a_silo_refuses_a_round_that_would_take_more_memory_than_it_may_hold(own: World) -> None:
    told = told_by_two(own, "state =", SMALL, code=6)
    assert "x SA-6015 south and east refused round 1: it would take more memory than" in told
    assert "memory_limit is 60 MB" in own[FAULTY].saw('"rule": "memory_limit"')  # Its own people may read it.


@pytest.mark.full
def test_a_coordinator_begins_no_run_and_resumes_none_that_would_take_more_memory_than_it_may_hold(
    own: World,
) -> None:
    told_by_two(own, "[policy.apps]", "max_clip = 0.0625\n\n[policy.apps]", code=6)
    (begun,) = own.runs("").glob("*")
    own.end("coordinator")
    change(own, "coordinator", "state =", SMALL)
    own.start("coordinator")
    resumed = ("coordinator", "run", "resume", begun.name, "--credentials", own.files / "scientist")
    for told in (start_job(own, code=2), own.typed(*resumed, code=2)):
        assert "x SA-2008 the run would need more memory than it may have" in check_shape(told, 2)
        assert "at the coordinator, memory_limit is 60 MB; nothing fits" in " ".join(told.split())
    assert list(own.runs("").glob("*")) == [begun], "something is left of the run that was not begun"


# --- full disks ---------------------------------------------------------------------------------------------


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Leave nothing on the disk of ``folder``."""
    filler = folder / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1k"], capture_output=True, check=False)
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Give ``folder`` a small disk of its own, with what is in it."""
    kept = folder.with_name("on-the-old-disk")
    shutil.copytree(folder, kept)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def file_limit(pid: int) -> Iterator[None]:
    """Let a process write no file."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    yield
    del before  # The process has ended.


mounts = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")


@mounts
@pytest.mark.full
def test_a_full_disk_ends_a_silo_and_it_is_back_when_there_is_space(own: World) -> None:
    own.end(FAULTY)
    with small_disk(own.state(FAULTY)):
        own.start(FAULTY)
        own.together(FAULTY)
        go_on, bystander = own.shut(FAULTY, 1), own.shut(BYSTANDER, 2)
        run = own.begin(2)
        go_on.reached()
        with full_disk(own.state(FAULTY)):
            go_on()
            process = own.running.pop(FAULTY)
            assert process.end() == 3, process.log
        told = check_shape(process.log, 3)
        assert (
            f"the disk of {own.state(FAULTY)} is full; free space and start again, nothing was sent" in told
        )
        own.start(FAULTY)
        run.until(FAULTY, "Training", "done", after=("round", 2))
        bystander()
        own.check(run, 2, repeated=frozenset({(FAULTY, 1)}))
        assert FAULTY not in run.reports[0].survivors
        assert FAULTY in run.reports[1].survivors
        own.end(FAULTY)


@pytest.mark.full
def test_a_silo_that_can_write_no_file_ends_before_it_answers(world: World) -> None:
    go_on = world.shut(FAULTY, 1)
    run = world.begin(1)
    go_on.reached()
    process = world.running.pop(FAULTY)
    with file_limit(process.pid):
        go_on()
        assert process.end() == 3, process.log
    assert "cannot be written" in check_shape(process.log, 3)
    outcome = run.outcome()
    assert (outcome.state, outcome.exit) == ("degraded", 8)
    assert FAULTY not in outcome.records[0].report.survivors


@mounts
@pytest.mark.full
def test_a_full_disk_halts_the_coordinator_and_the_run_goes_on_when_there_is_space(own: World) -> None:
    own.end("coordinator")
    with small_disk(own.state("coordinator")):
        own.start("coordinator")
        own.together(*own.silos)
        go_on = own.shut(BYSTANDER, 1)
        run = own.begin(2)
        go_on.reached()
        with full_disk(own.state("coordinator")):
            go_on()
            outcome = run.outcome()
        assert (outcome.state, outcome.exit) == ("halted", 3), outcome.text
        told = check_shape(outcome.text, 3)
        assert str(own.state("coordinator")) in told
        assert "Free space" in told
        assert outcome.records == ()
        assert not list(own.runs(run.run).glob("model*"))
        assert own["coordinator"].alive
        person = ("--credentials", own.files / "scientist")
        shown = own.typed("coordinator", "runs", *person, code=0)
        if "running" in shown:  # Not even the verdict could be kept: it goes on by itself.
            own.end("coordinator")
            own.start("coordinator")
        else:
            own.client.resume(run.run)
        assert own.check(own.again(run), 2).state == "completed"
        own.end("coordinator")


# --- small parts --------------------------------------------------------------------------------------------


def change(world: World, silo: str, old: str, new: str) -> None:
    path = world.config(silo)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


SMALL = "memory_limit = 60_000_000\nstate ="
"""In place of ``state =``: less than a process takes that does nothing."""


def told_by_two(world: World, old: str, new: str, *, code: int) -> str:
    """Change the files of two silos, start them again, and return what a job of one round says then."""
    for silo in (FAULTY, "east"):
        change(world, silo, old, new)
        world.end(silo)
    world.start(FAULTY, "east")
    world.together(FAULTY, "east")
    job(world, rounds=1, waits="attempts = 1\nphase_seconds = 5.0")
    return check_shape(start_job(world, code=code), code)


def job(world: World, *, rounds: int, waits: str = "") -> None:
    """Write a job for the scientist."""
    home = world.files / "scientist"
    write_model(home / "initial.safetensors", GlobalModel(1, initial()), ())
    (home / "job.toml").write_text(
        f'name = "faults"\nrounds = {rounds}\napp = "{APP}"\ninitial = "initial.safetensors"\n'
        'metrics = ["loss"]\n\n[numbers]\nclip = 8.0\nweight_cap = 1000.0\nleast_total_weight = 10.0\n'
        f"metric_bound = 100.0\n\n[training]\nseed = 7\n\n[waits]\n{waits}\n"
    )


def start_job(world: World, *, code: int) -> str:
    home = world.files / "scientist"
    command = ("coordinator", "run", "start", home / "job.toml", "--wait", "--credentials", home)
    return world.typed(*command, code=code)


def check_same(world: World, run: Watched, rounds: int) -> None:
    """Check that the model is the one of the same survivors in one process."""
    outcome = run.outcome()
    alone = world.local(run, rounds, [record.report.survivors for record in outcome.records])
    assert (world.client.model(run.run) == alone.model).all()
