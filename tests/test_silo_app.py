"""Which training code a silo runs: what is approved, as it was approved, and nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg.errors import EnvironmentFault, ParameterError, PolicyRefused, SecaggError, TrainerFailed
from secagg.learning.trainer import Trainer
from silo.app import MAX_FILES, Apps, source_hash

SOURCE = """
from secagg.learning.trainer import Evaluation, Update

from {package}.numbers import STEP


class Local:
    def __init__(self, rows):
        self.rows = rows

    def train(self, weights, settings):
        return Update(weights + STEP, self.rows)

    def evaluate(self, weights):
        return Evaluation()


def hospital(rows, seed=0):
    if rows < 0:
        raise ValueError("patient 4711")
    return Local(rows)


def nothing(rows):
    return object()


number = 3
"""


class Site:
    """A folder of installed code, and the app in it."""

    def __init__(self, folder: Path, package: str) -> None:
        self.folder = folder
        self.package = package
        self.inner = folder / package / "training"
        self.inner.mkdir(parents=True)
        self.write("app.py", SOURCE.format(package=f"{package}.training"))
        self.write("numbers.py", "STEP = 1.0\n")
        self.app = f"{package}.training.app:hospital"

    def write(self, name: str, text: str) -> None:
        path = self.inner / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def named(self, function: str) -> str:
        return self.app.replace("hospital", function)

    def apps(self, app: str | None = None, arguments: Mapping[str, Any] | None = None) -> Apps:
        """The apps of a silo that approved ``app`` as it is now."""
        app = app or self.app
        return Apps("north", {app: source_hash(app)}, {"rows": 7} if arguments is None else arguments)

    @property
    def imported(self) -> bool:
        return f"{self.package}.training.app" in sys.modules


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    site = Site(tmp_path, f"site{abs(hash(request.node.name))}")
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == site.package]:
        del sys.modules[name]
    importlib.invalidate_caches()


def refused(apps: Apps, app: str) -> str:
    with pytest.raises(PolicyRefused) as caught:
        apps.trainer(app)
    assert caught.value.rule == "app"
    return str(caught.value)


# --- the hash -----------------------------------------------------------------------------------------------


def test_the_hash_is_of_the_source_and_nothing_runs(site: Site) -> None:
    first = source_hash(site.app)
    assert first.startswith("sha256:")
    assert len(first) == 7 + 64
    assert source_hash(site.app) == first
    assert not site.imported


def test_the_hash_is_the_same_in_another_folder(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Site(tmp_path_factory.mktemp("elsewhere"), site.package)
    code = f"from silo.app import source_hash; print(source_hash({site.app!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{other.folder}:{Path(__file__).parent.parent}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == source_hash(site.app)


@pytest.mark.parametrize(
    "change",
    [
        ("app.py", SOURCE + "\n"),
        ("numbers.py", "STEP = 2.0\n"),
        ("added.py", ""),
        ("deeper/added.py", ""),
        ("__init__.py", ""),
        ("../__init__.py", ""),
        ("native.so", "another language"),
        ("old.pyc", "no source beside it"),
    ],
    ids=lambda change: change[0],
)
def test_every_file_that_could_run_counts(site: Site, change: tuple[str, str]) -> None:
    before = source_hash(site.app)
    site.write(*change)
    assert source_hash(site.app) != before


@pytest.mark.parametrize("name", ["README.md", "data.csv", "__pycache__/app.cpython-311.pyc", "../aside.py"])
def test_other_files_do_not(site: Site, name: str) -> None:
    before = source_hash(site.app)
    site.write(name, "text")
    assert source_hash(site.app) == before


def test_two_files_that_exchange_their_names_give_another_hash(site: Site) -> None:
    site.write("one.py", "1")
    site.write("two.py", "2")
    before = source_hash(site.app)
    site.write("one.py", "2")
    site.write("two.py", "1")
    assert source_hash(site.app) != before


def test_a_module_alone_is_hashed_alone(site: Site) -> None:
    alone = site.folder / f"{site.package}_alone.py"
    alone.write_text("def f(): pass\n")
    before = source_hash(f"{alone.stem}:f")
    (site.folder / f"{site.package}_other.py").write_text("")
    assert source_hash(f"{alone.stem}:f") == before
    alone.write_text("def f(): return 1\n")
    assert source_hash(f"{alone.stem}:f") != before


@pytest.mark.parametrize(
    "app", ["", "app", "a.b", "a:b:c", "a.b:", ":f", "../a:f", "a b:f", "a.b:f()", ".a:f"]
)
def test_a_name_that_is_none_is_refused(app: str) -> None:
    with pytest.raises(ParameterError, match=r"package\.module:function"):
        source_hash(app)


@pytest.mark.parametrize("app", ["no_such_package.app:f", "secagg.no_such_module:f", "secagg.cli.main:f"])
def test_a_module_that_is_not_there_is_named(app: str) -> None:
    with pytest.raises(EnvironmentFault, match=r"no module|is no package"):
        source_hash(app)


@pytest.mark.parametrize("app", ["sys:exit", "os:getcwd"])
def test_a_module_without_source_cannot_be_approved(app: str) -> None:
    with pytest.raises(EnvironmentFault, match="no source"):
        source_hash(app)


def test_a_package_that_is_too_large_is_not_read(site: Site) -> None:
    for number in range(MAX_FILES):
        site.write(f"part{number}.py", "")
    with pytest.raises(ParameterError, match="too large"):
        source_hash(site.app)


# --- approval -----------------------------------------------------------------------------------------------


def test_an_approved_app_becomes_a_trainer_once(site: Site) -> None:
    apps = site.apps()
    trainer = apps.trainer(site.app)
    assert isinstance(trainer, Trainer)
    assert apps.trainer(site.app) is trainer
    assert trainer.train(np.zeros(2), None).examples == 7  # type: ignore[arg-type]


def test_what_is_not_approved_is_not_imported_and_the_line_to_add_is_said(site: Site) -> None:
    text = refused(Apps("north", {}, {"rows": 7}), site.app)
    assert f'"{site.app}" = "{source_hash(site.app)}"' in text
    assert not site.imported


@pytest.mark.parametrize("app", ["", "no_such.app:f", "../../etc/passwd", "sys:exit", "torch.nn:Linear"])
def test_what_a_coordinator_asks_for_is_refused_by_policy_alone(app: str) -> None:
    refused(Apps("north", {}, {}), app)


def test_an_approved_app_does_not_approve_its_neighbour(site: Site) -> None:
    assert site.named("nothing") in refused(site.apps(), site.named("nothing"))


def test_changed_source_is_refused_before_it_is_imported(site: Site) -> None:
    apps = site.apps()
    site.write("numbers.py", "STEP = 2.0\n")
    text = refused(apps, site.app)
    assert f'"{site.app}" = "{source_hash(site.app)}"' in text
    assert not site.imported


def test_source_that_changed_since_it_was_loaded_is_refused_until_restart(site: Site) -> None:
    apps = site.apps()
    before = apps.trainer(site.app)
    site.write("numbers.py", "STEP = 2.0\n")
    refused(apps, site.app)
    # Approving the new source does not help a process that runs the old one.
    both = Apps("north", {site.app: source_hash(site.app)}, {"rows": 7})
    both._loaded = apps._loaded
    assert "start `silo run` again" in refused(both, site.app)
    site.write("numbers.py", "STEP = 1.0\n")
    assert apps.trainer(site.app) is before


def test_source_that_changes_itself_while_it_loads_is_refused(site: Site) -> None:
    site.write("__init__.py", "import pathlib; pathlib.Path(__file__).with_name('more.py').write_text('')\n")
    assert "changed while it was loaded" in refused(site.apps(), site.app)


# --- what an app may do wrong -------------------------------------------------------------------------------


def failure(apps: Apps, app: str) -> SecaggError:
    with pytest.raises(SecaggError) as caught:
        apps.trainer(app)
    return caught.value


@pytest.mark.parametrize(
    ("function", "arguments", "kind", "words"),
    [
        ("clinic", {"rows": 7}, ParameterError, "has no function clinic"),
        ("number", {"rows": 7}, ParameterError, "has no function number"),
        ("hospital", {}, ParameterError, "missing a required argument: 'rows'; see [data.arguments]"),
        ("hospital", {"rows": 7, "beds": 1}, ParameterError, "unexpected keyword argument 'beds'"),
        ("nothing", {"rows": 7}, ParameterError, "returned a object, which is no trainer"),
        ("hospital", {"rows": -1}, TrainerFailed, "hospital() raised ValueError at app.py:"),
    ],
)
def test_what_is_wrong_with_an_app_is_said(
    site: Site, function: str, arguments: dict[str, Any], kind: type[SecaggError], words: str
) -> None:
    app = site.named(function)
    error = failure(site.apps(app, arguments), app)
    assert type(error) is kind
    assert words in str(error)
    assert "4711" not in str(error)


def test_what_the_users_code_raised_is_kept_beside_the_error(site: Site) -> None:
    error = failure(site.apps(arguments={"rows": -1}), site.app)
    assert isinstance(error, TrainerFailed)
    assert error.silo == "north"
    assert isinstance(error.original, ValueError)
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("import no_such_package\n", EnvironmentFault, "no_such_package is missing"),
        ("raise ValueError('patient 4711')\n", TrainerFailed, "its import raised ValueError at app.py:1"),
        ("def hospital(:\n", TrainerFailed, "SyntaxError"),
    ],
)
def test_an_app_that_cannot_be_imported_is_said(
    site: Site, source: str, kind: type[SecaggError], words: str
) -> None:
    site.write("app.py", source)
    error = failure(site.apps(), site.app)
    assert type(error) is kind
    assert words in str(error)
    assert "4711" not in str(error)


def test_an_app_that_failed_is_tried_again(site: Site) -> None:
    site.write("app.py", "import no_such_package\n")
    failure(site.apps(), site.app)
    site.write("app.py", SOURCE.format(package=f"{site.package}.training"))
    assert isinstance(site.apps().trainer(site.app), Trainer)


def test_a_link_to_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python imports what lies behind it, and the list of files would not have it."""
    package, elsewhere = tmp_path / "linked", tmp_path / "elsewhere"
    package.mkdir()
    elsewhere.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "app.py").write_text("def trainer(): ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source_hash("linked.app:trainer").startswith("sha256:")
    (package / "sub").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ParameterError, match="a folder sub that is a link"):
        source_hash("linked.app:trainer")
