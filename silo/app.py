"""Training code of a silo: found by import path, approved by the hash of its source, called for a trainer.

Code never comes from the coordinator, which names an app and no more. What an approval covers is the
package folder that holds the app's module, and the ``__init__`` files above it: all of that is hashed without
being run. Packages that it imports are the silo's own installation and are not hashed, and neither are
Python's caches of compiled source.

Source: "The import system" of the Python language reference, for where a module's source lies.
"""

from __future__ import annotations

import hmac
import importlib
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, all_suffixes
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from secagg.errors import EnvironmentFault, ParameterError, PolicyRefused, TrainerFailed
from secagg.hazmat.framing import digest
from secagg.learning.trainer import Trainer
from secagg.names import APP_PATTERN, SiloId

T = TypeVar("T")

MAX_FILES = 2000
MAX_BYTES = 64 * 1024 * 1024
_APP = re.compile(APP_PATTERN)
_CODE = tuple(all_suffixes())


class Apps:
    """The apps of one silo.

    Args:
        silo: whose they are, for errors.
        approved: import path -> hash, from the silo's policy.
        arguments: what an app's function is called with, by name.

    Guarantees:
        Nothing of an app is imported or run before its hash was found equal to the approved one.
        An app whose source changed since it was loaded is refused: what runs is what was approved.
        An app is loaded once.
    """

    def __init__(self, silo: SiloId, approved: Mapping[str, str], arguments: Mapping[str, Any]) -> None:
        self._silo = silo
        self._approved = dict(approved)
        self._arguments = dict(arguments)
        self._loaded: dict[str, tuple[str, Trainer]] = {}

    def trainer(self, app: str) -> Trainer:
        """Return the trainer of ``app``, loading it if it was not.

        Raises:
            PolicyRefused: rule ``"app"``: not approved as it is now.
            EnvironmentFault: it cannot be imported.
            ParameterError: the function is not there, takes other arguments, or returns no trainer.
            TrainerFailed: the function raised.
        """
        found = self._approved_hash(app)
        if app in self._loaded:
            loaded, trainer = self._loaded[app]
            if loaded != found:
                raise PolicyRefused("app", f"{app} changed since it was loaded; start `silo run` again")
            return trainer
        trainer = self._load(app)
        if source_hash(app) != found:
            raise PolicyRefused("app", f"{app} changed while it was loaded; start `silo run` again")
        self._loaded[app] = found, trainer
        return trainer

    def _approved_hash(self, app: str) -> str:
        """Return the hash of ``app``, which is the approved one."""
        if not app:
            raise PolicyRefused("app", "the round names no app; give `app` in job.toml")
        try:
            found = source_hash(app)
        except (EnvironmentFault, ParameterError) as error:
            if app in self._approved:
                raise
            raise PolicyRefused("app", f"not approved here, and {error}") from None
        line = f'under [policy.apps]: "{app}" = "{found}"'
        if app not in self._approved:
            raise PolicyRefused("app", f"{app} is not approved here; read its source, then write {line}")
        if not hmac.compare_digest(found, self._approved[app]):
            raise PolicyRefused(
                "app",
                f"the source of {app} is not the one that was approved; read what changed, then write {line}",
            )
        return found

    def _load(self, app: str) -> Trainer:
        module, _, name = app.partition(":")
        function = getattr(self._import(app, module), name, None)
        if not callable(function):
            raise ParameterError(f"app {app}: {module} has no function {name}")
        self._check_arguments(app, function)
        trainer: object = self._run(app, f"{name}()", lambda: function(**self._arguments))
        if not isinstance(trainer, Trainer):
            raise ParameterError(
                f"app {app}: {name}() returned a {type(trainer).__name__}, which is no trainer; "
                "a trainer has the methods train() and evaluate()"
            )
        return trainer

    def _import(self, app: str, module: str) -> ModuleType:
        try:
            return self._run(app, "its import", lambda: importlib.import_module(module))
        except TrainerFailed as failed:
            if isinstance(failed.original, ImportError):
                missing = failed.original.name or "a package"
                raise EnvironmentFault(
                    f"app {app} cannot be imported: {missing} is missing or incomplete; install what it needs"
                ) from None
            raise

    def _check_arguments(self, app: str, function: Callable[..., Any]) -> None:
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return  # One that does not say what it takes.
        try:
            signature.bind(**self._arguments)
        except TypeError as error:  # It names parameters, never values.
            raise ParameterError(f"app {app}: {error}; see [data.arguments]") from None

    def _run(self, app: str, what: str, work: Callable[[], T]) -> T:
        """Run the user's code; what it raises may quote data, so only type and line are repeated."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            text = f"{app}: {what} raised {type(error).__name__}{_line(app, error)}"
            raise TrainerFailed(self._silo, text, original=error) from None


def source_hash(app: str) -> str:
    """Return what an approval of ``app`` names: ``"sha256:..."`` over paths and contents of its source.

    Hashed are all files that Python would import from the package folder of its module, or the module
    alone if it lies in no package, and the ``__init__`` files of the packages above.

    Raises:
        ParameterError: not of the form ``package.module:function``, or its package is too large.
        EnvironmentFault: there is no such module, or its source cannot be read.

    Guarantees:
        Nothing is imported.
        Another name, place or content of one file gives another hash.
    """
    files = _sources(app)
    try:
        contents = tuple((name, path.read_bytes()) for name, path in sorted(files.items()))
    except OSError as error:
        raise EnvironmentFault(f"the source of {app} cannot be read: {error.strerror}") from error
    return f"sha256:{digest('app source', contents).hex()}"


def _sources(app: str) -> dict[str, Path]:
    """Return the files that an approval of ``app`` covers, by their path from where the import begins."""
    if not _APP.fullmatch(app):
        raise ParameterError(f'app {app!r} is not of the form "package.module:function"')
    importlib.invalidate_caches()  # A file may have been written since this process began.
    names = app.partition(":")[0].split(".")
    above: dict[str, Path] = {}
    package, places = "", list[str]()
    for depth, name in enumerate(names, start=1):
        found = _find(".".join(names[:depth]), places if depth > 1 else None)
        if found is None:
            raise EnvironmentFault(
                f"app {app}: there is no module {'.'.join(names[:depth])}; install it, or set PYTHONPATH"
            )
        source, inner = found
        if source is not None and (inner or depth == 1):
            above["/".join([*names[: depth if inner else depth - 1], source.name])] = source
        if depth == len(names) and source is None:
            raise EnvironmentFault(f"app {app}: {'.'.join(names)} has no source that could be approved")
        if inner:
            package, places = "/".join(names[:depth]), inner
        elif depth < len(names):
            raise EnvironmentFault(f"app {app}: {name} is no package")
    return above | _code(app, package, places)


def _code(app: str, package: str, places: Sequence[str]) -> dict[str, Path]:
    """Return every file below the folders of a package that Python could import."""
    files: dict[str, Path] = {}
    size = 0
    for folder in map(Path, places):
        for path in folder.rglob("*"):
            if path.is_symlink() and path.is_dir():
                # Python follows it and would import what lies there; this list would not have it.
                raise ParameterError(
                    f"the package of {app} has a folder {path.name} that is a link; copy it there"
                )
            if path.name.endswith(_CODE) and "__pycache__" not in path.parts and path.is_file():
                files.setdefault(f"{package}/{path.relative_to(folder).as_posix()}", path)
                size += path.stat().st_size
            if len(files) > MAX_FILES or size > MAX_BYTES:
                raise ParameterError(
                    f"the package of {app} is too large to be read before it is approved; give the app a "
                    "package of its own"
                )
    return files


def _find(name: str, places: Sequence[str] | None) -> tuple[Path | None, list[str]] | None:
    """Return source and inner folders of the module ``name``, without importing it or a parent.

    Args:
        name: in full.
        places: folders of its package; None for a module at the top.
    """
    specs: Iterator[ModuleSpec | None]
    if places is None:
        specs = (finder.find_spec(name, None) for finder in sys.meta_path)
    else:
        specs = (finder.find_spec(name) for place in places if (finder := pkgutil.get_importer(place)))
    namespace: list[str] = []
    for spec in filter(None, specs):
        inner = list(spec.submodule_search_locations or ())
        if spec.loader is not None:
            return (Path(spec.origin) if spec.has_location and spec.origin else None), inner
        namespace += inner  # A folder without __init__: others of its name belong to it too.
    return (None, list(dict.fromkeys(namespace))) if namespace else None


def _line(app: str, error: Exception) -> str:
    """Return ``" at file.py:12"``, the innermost line of the app's own source."""
    own = {str(path) for path in _sources(app).values()}
    lines = [
        f" at {Path(frame.f_code.co_filename).name}:{number}"
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename in own
    ]
    return lines[-1] if lines else ""
