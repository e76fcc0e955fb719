"""The wheel, built and installed alone in an environment that has never seen the checkout."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import secagg

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
PACKAGES = {"secagg", "silo", "coordinator"}
BASE_INSTALL_MB = 32  # besides NumPy, as the wheels unpack; Python's compiled caches add a third

SECURE_SUM = """
import numpy as np, secagg
vectors = {silo: np.full(1000, value) for silo, value in zip("abcdef", range(6), strict=True)}
result = secagg.secure_sum(vectors, scheme=secagg.Masking(), clip=8.0, dropouts={"f": "MaskedInput"})
assert result.survivors == tuple("abcde"), result.survivors
assert np.allclose(result.total, 10.0, atol=1e-3), result.total
print("opened", secagg.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """A fresh virtual environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        self.bin = folder / "venv" / "bin"

    def install(self, *what: str) -> None:
        run(self.bin / "python", "-m", "pip", "install", "--no-compile", *what, cwd=self.folder)

    def python(self, code: str) -> str:
        # -I: neither the current folder nor PYTHONPATH may stand in for what the wheel forgot.
        return run(self.bin / "python", "-I", "-W", "error", "-c", code, cwd=self.folder)

    def megabytes(self) -> dict[str, float]:
        """Return the size of each top-level entry of site-packages, in 10**6 bytes, compiled caches aside."""
        site = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        return {
            entry.name: sum(
                file.stat().st_size
                for file in ([entry] if entry.is_file() else entry.rglob("*"))
                if file.is_file() and "__pycache__" not in file.parts
            )
            / 1e6
            for entry in site.iterdir()
        }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)  # the wheel comes out of the sdist
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == PACKAGES | {f"secagg-{secagg.__version__}.dist-info"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    odd = [n for n in names if n.partition("/")[0] in PACKAGES and not n.endswith((".py", "py.typed"))]
    assert not odd
    source = {p.relative_to(ROOT).as_posix() for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    assert source == {n for n in names if n.endswith(".py")}
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_the_wheel_alone_works_and_stays_small(wheel: Path, tmp_path: Path) -> None:
    fresh = Environment(tmp_path)
    fresh.install(str(wheel))
    assert "demo" in run(fresh.bin / "secagg", "--help", cwd=tmp_path)
    assert run(fresh.bin / "secagg", "--version", cwd=tmp_path).strip() == f"secagg {secagg.__version__}"
    assert str(tmp_path) in fresh.python(SECURE_SUM)
    assert "pip install 'secagg[torch]'" in fresh.python(
        "import secagg.errors, silo\n"
        "try: silo.TorchTrainer\n"
        "except secagg.errors.MissingExtra as error: print(error)"
    )
    ours = {
        name: size
        for name, size in fresh.megabytes().items()
        if not name.startswith(("numpy", "pip", "setuptools", "pkg_resources", "_distutils_hack"))
    }
    largest = sorted(ours.items(), key=lambda item: -item[1])[:8]
    print(f"base install besides NumPy: {sum(ours.values()):.1f} MB", largest)
    assert sum(ours.values()) <= BASE_INSTALL_MB, largest


def test_the_lowest_versions_named_work(wheel: Path, tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = []
    for text in project["dependencies"]:
        requirement = Requirement(text)
        (bound,) = (b for b in requirement.specifier if b.operator == ">=")
        lowest.append(f"{requirement.name}=={bound.version}")
    oldest = Environment(tmp_path)
    oldest.install(str(wheel), *lowest)
    assert "demo" in run(oldest.bin / "secagg", "--help", cwd=tmp_path)
    run(oldest.bin / "secagg", "explain", "--help", cwd=tmp_path)
    assert str(tmp_path) in oldest.python(SECURE_SUM)
