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


def loaded_by(*modules: str) -> set[str]:
    """Return the names in ``sys.modules`` after a fresh interpreter imported ``modules`` alone."""
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert loaded.issuperset(modules)
    return loaded


def loading(names: set[str], modules: list[str]) -> list[str]:
    """Return those of ``modules`` that load one of ``names``.

    What all of them load together is all that each of them loads: only if something is in there that should
    not be, each is asked.
    """
    if not loaded_by(*modules) & names:
        return []
    return [module for module in modules if loaded_by(module) & names] or ["all of them together"]


LIBRARY = modules_of(secagg.__name__)
NAMED = {  # Not used: by cryptography's X.509 for e-mail addresses, by gmpy2 for its version, by SciPy.
    "socket": {"secagg.certificates", "secagg.operator_tables", "secagg.privacy.pld"}
    | LOAD_TENSEAL  # TenSEAL asks multiprocessing for the number of cores.
    | {module for module in LIBRARY if module.startswith(("secagg.paillier.", "secagg.shared_sums."))},
    "click": {"secagg.paillier.phe"},  # The package phe brings commands of its own.
    "asyncio": {"secagg.privacy.pld"},  # An import of dp_accounting's own.
}


def test_the_search_finds_who_loads_it() -> None:
    assert loading({"typer"}, ["secagg.errors", "secagg.console", "secagg.names"]) == ["secagg.console"]


def test_the_library_loads_no_framework_and_no_process() -> None:
    assert loading(HEAVY | {"silo", "coordinator"}, LIBRARY) == []


def test_only_learning_and_commands_know_people_clocks_and_sockets() -> None:
    bare = [m for m in LIBRARY if not m.startswith(("secagg.learning", "secagg.cli", "secagg.console"))]
    excepted = [module for module in bare if any(module in modules for modules in NAMED.values())]
    assert loading(FOR_PEOPLE, [module for module in bare if module not in excepted]) == []
    for module in excepted:
        named = {name for name, modules in NAMED.items() if module in modules}
        assert loaded_by(module) & FOR_PEOPLE <= named, module


@pytest.mark.parametrize("package", ["secagg", "coordinator"])
def test_what_adds_never_loads_what_opens(package: str) -> None:
    network = {"grpc"} if package == "coordinator" else set()
    adding = {
        "coordinator": modules_of(coordinator.__name__),
        "secagg": [module for module in LIBRARY if module.endswith((".coordinator", ".public"))],
    }[package]
    halves = {module for module in LIBRARY if is_silo_half(module)}
    assert loading(HEAVY - network | {"silo"} | halves, adding) == []


def test_a_silo_never_loads_the_coordinator() -> None:
    assert loading({"coordinator"}, modules_of(silo.__name__)) == []


def test_importing_silo_loads_no_framework() -> None:
    assert not loaded_by("silo") & HEAVY


def test_importing_secagg_loads_no_third_party() -> None:
    loaded = loaded_by("secagg")
    assert not {m for m in loaded if m.startswith("secagg.")}
    assert not loaded & {"numpy", "cryptography", "msgspec", "tenseal"}


def test_only_what_computes_with_ckks_loads_tenseal() -> None:
    assert loading({"tenseal"}, [module for module in LIBRARY if module not in LOAD_TENSEAL]) == []
    for module in LOAD_TENSEAL:
        assert "tenseal" in loaded_by(module)


@pytest.mark.parametrize("name", secagg.__all__)
def test_every_public_name_resolves_to_the_object_its_module_defines(name: str) -> None:
    assert name in dir(secagg)
    value = getattr(secagg, name)
    assert value is getattr(secagg, name)
    if name not in {"errors", "psi"}:
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
