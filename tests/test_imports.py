"""What importing pulls in, seen from a fresh interpreter.

The import contracts of pyproject.toml read source code. They do not see a package's ``__init__``, a name
loaded by string, or what a third party imports in turn; ``sys.modules`` does.
"""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import coordinator
import secagg
import silo

HEAVY = {"grpc", "torch", "opacus", "sklearn", "pandas", "matplotlib", "nilearn"}
FOR_PEOPLE = {"typer", "click", "rich", "asyncio", "socket"}  # NumPy itself loads time: see the contracts


LOAD_TENSEAL = {f"secagg.ckks.{name}" for name in ("coordinator", "public", "seal", "secret", "silo")}


def modules_of(package: str) -> list[str]:
    root = sys.modules[package]
    return [package, *(m.name for m in pkgutil.walk_packages(root.__path__, f"{package}."))]


def is_silo_half(module: str) -> bool:
    return module.startswith("secagg.") and module.rpartition(".")[2] in {"silo", "secret", "shares"}


def loaded_by(statement: str) -> set[str]:
    """Return the names in ``sys.modules`` after ``statement`` ran alone."""
    code = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


LIBRARY = modules_of(secagg.__name__)


@pytest.mark.parametrize("module", LIBRARY)
def test_the_library_loads_no_framework_and_no_process(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module in loaded
    assert not loaded & (HEAVY | {"silo", "coordinator"})
    if module in {"secagg.certificates", "secagg.operator_tables"}:
        loaded -= {"socket"}  # Named, not used, by what cryptography's X.509 reads e-mail addresses with.
    if module.startswith("secagg.paillier."):
        loaded -= {"socket"}  # Named, not used, by what gmpy2 reads its own version with.
    if module == "secagg.paillier.phe":
        loaded -= {"click"}  # The package phe brings commands of its own.
    if module == "secagg.privacy.pld":
        loaded -= {"socket"}  # Named, not used, by SciPy, which dp_accounting computes with.
    if module in LOAD_TENSEAL:
        loaded -= {"socket"}  # TenSEAL asks multiprocessing for the number of cores.
    if module == "secagg.privacy.pld":
        loaded -= {"asyncio", "socket"}  # dp_accounting's own imports.
    if not module.startswith(("secagg.learning", "secagg.cli", "secagg.console")):
        assert not loaded & FOR_PEOPLE


@pytest.mark.parametrize(
    "module",
    [*modules_of(coordinator.__name__), *(m for m in LIBRARY if m.endswith((".coordinator", ".public")))],
)
def test_what_adds_never_loads_what_opens(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    network = {"grpc"} if module.startswith("coordinator") else set()
    assert not loaded & (HEAVY - network | {"silo"})
    assert not {m for m in loaded if is_silo_half(m)}


@pytest.mark.parametrize("module", modules_of(silo.__name__))
def test_a_silo_never_loads_the_coordinator(module: str) -> None:
    assert "coordinator" not in loaded_by(f"import {module}")


def test_importing_silo_loads_no_framework() -> None:
    assert not loaded_by("import silo") & HEAVY


def test_importing_secagg_loads_no_third_party() -> None:
    loaded = loaded_by("import secagg")
    assert not {m for m in loaded if m.startswith("secagg.")}
    assert not loaded & {"numpy", "cryptography", "msgspec", "tenseal"}


@pytest.mark.parametrize("module", LIBRARY)
def test_only_what_computes_with_ckks_loads_tenseal(module: str) -> None:
    assert ("tenseal" in loaded_by(f"import {module}")) == (module in LOAD_TENSEAL)


@pytest.mark.parametrize("name", secagg.__all__)
def test_every_public_name_resolves_to_the_object_its_module_defines(name: str) -> None:
    assert name in dir(secagg)
    value = getattr(secagg, name)
    assert value is getattr(secagg, name)
    if name != "errors":
        assert value is getattr(sys.modules[value.__module__], name)
        assert value.__module__.startswith("secagg.")


def test_type_checkers_see_exactly_the_names_that_load() -> None:
    tree = ast.parse(Path(str(secagg.__file__)).read_text(encoding="utf-8"))
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    seen = [alias.name for node in guard.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(seen) == sorted(secagg.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Masks'"):
        secagg.Masks  # type: ignore[attr-defined]  # noqa: B018
