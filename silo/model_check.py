"""The command ``silo check MODEL.py``: which layers of a model file cannot be trained privately, and the fix.

The file is the reader's own and is run to get the model, as Python runs any import; a file from elsewhere is
to be read first. A fix is a new file beside it, which imports the old one and replaces layer by layer in the
open; nothing is written over.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from secagg.errors import EnvironmentFault, ParameterError
from silo.dp_layers import Misfit, misfits

MADE = "private_model"
"""Name of the function in a file that was written here."""


@dataclass(frozen=True)
class ModelFile:
    """A model and where it stands.

    Attributes:
        path: of the file.
        module: its name for an import, from ``root``.
        name: what in it makes the model.
        called: the name is called to get the model.
        model: in training mode.
    """

    path: Path
    module: str
    name: str
    called: bool
    model: nn.Module

    @classmethod
    def load(cls, spec: str) -> ModelFile:
        """Run a file and take the model in it.

        Args:
            spec: ``path.py``, or ``path.py:name`` of a model, of a class without arguments, or of a function
                without arguments that returns a model. Without a name it must be clear which is meant: a
                model goes before a function with ``-> nn.Module``, a function before a class.

        Raises:
            ParameterError: there is no such model, or more than one.
            EnvironmentFault: there is no such file, or it raised.
        """
        place, _, name = spec.partition(":")
        path = Path(place).resolve()
        if path.suffix != ".py" or not path.is_file():
            raise EnvironmentFault(
                f"{place} is no file of Python that is there; give path.py or path.py:name"
            )
        module = _imported(path)
        name = name or _only(module, path)
        made = getattr(module, name, None)
        called = not isinstance(made, nn.Module)
        if made is None or not (isinstance(made, nn.Module) or callable(made)):
            raise ParameterError(f"{path.name} has no model of the name {name}")
        model = _run(made, f"{path.name}:{name}") if called else made
        if not isinstance(model, nn.Module):
            raise ParameterError(f"{path.name}:{name} gives no torch.nn.Module")
        return cls(path, module.__name__, name, called, model.train())

    @property
    def misfits(self) -> tuple[Misfit, ...]:
        """Layers that give no gradients of single records."""
        return misfits(self.model)

    def fix(self, *, force: bool = False) -> Path:
        """Write a file with the replacements beside this one, and check what it makes.

        Args:
            force: replace a file of that name.

        Returns:
            Its path; the function ``private_model`` in it makes the model.

        Raises:
            ParameterError: a layer has no replacement, or the file is there.
            EnvironmentFault: it cannot be written.
        """
        found = self.misfits
        hard = [str(misfit) for misfit in found if not misfit.replacement]
        if hard:
            raise ParameterError(f"nothing was written: {'. '.join(hard)}")
        path = self.path.with_name(f"{self.path.stem}_private.py")
        if path.exists() and not force:
            raise ParameterError(f"{path} is there already; --force writes it anew")
        try:
            path.write_text(self._source(found), encoding="utf-8")
        except OSError as error:
            raise EnvironmentFault(f"cannot write {path}: {error.strerror}") from error
        sys.modules.pop(f"{self.module}_private", None)  # What was there before.
        left = ModelFile.load(f"{path}:{MADE}").misfits
        if left:
            raise ParameterError(f"{path} still has layers to replace by hand: {'. '.join(map(str, left))}")
        return path

    def _source(self, found: Sequence[Misfit]) -> str:
        package, _, stem = self.module.rpartition(".")
        start = "original()" if self.called else "copy.deepcopy(original)"
        body = [line for misfit in found for line in _replaced(misfit)]
        return _TEMPLATE.format(
            copy="" if self.called else "import copy\n\n",
            layers="from opacus import layers\n" if "layers." in "".join(body) else "",
            original=f"from {'.' if package else ''}{stem} import {self.name} as original",
            file=self.path.name,
            name=self.name,
            function=MADE,
            start=start,
            body="\n".join(f"    {line}" for line in body),
        )


_TEMPLATE = '''"""{name} of {file}, with layers that give gradients of single records.

Written by `silo check {file} --fix`; it is yours to change. Give every silo the same file: its weights are
not laid out like those of {file}. Recurrent layers and attention keep their weights, the others start afresh.
"""

{copy}{layers}from torch import nn

{original}


def {function}() -> nn.Module:
    """Return the model, to be trained with differential privacy."""
    model: nn.Module = {start}
{body}
    return model
'''


def _replaced(misfit: Misfit) -> list[str]:
    first, *others = misfit.names
    if not first:  # The model itself is the layer.
        load = ["made.load_state_dict(model.state_dict())"] if misfit.keeps_weights else []
        return [f"made = {misfit.replacement}", *load, "model = made"]
    if misfit.keeps_weights:
        lines = [
            f"made = {misfit.replacement}",
            f'made.load_state_dict(model.get_submodule("{first}").state_dict())',
            f'model.set_submodule("{first}", made)',
        ]
    else:
        lines = [f'model.set_submodule("{first}", {misfit.replacement})']
    return lines + [f'model.set_submodule("{name}", model.get_submodule("{first}"))' for name in others]


def _imported(path: Path) -> ModuleType:
    """Import a file by the name it has from outside its packages, as its own imports expect."""
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").exists():
        root, parts = root.parent, [root.name, *parts]
    name = ".".join(parts)
    if not all(part.isidentifier() for part in parts):
        raise ParameterError(f"{path.name} cannot be imported by its name; use letters, digits and _ in it")
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    module: ModuleType = _run(lambda: importlib.import_module(name), path.name)
    if Path(module.__file__ or "").resolve() != path:
        raise ParameterError(f"the name {name} belongs to another module; rename {path.name}")
    return module


def _run(made: Callable[[], Any], what: str) -> Any:
    """Run code of the file's author; whatever it raises is theirs to read."""
    try:
        return made()
    except Exception as error:  # The author's code may raise anything.
        raise EnvironmentFault(f"{what} raised {type(error).__name__}: {error}") from error


def _only(module: ModuleType, path: Path) -> str:
    """Return the name of the one model that a file has."""
    own = {
        name: value
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ or isinstance(value, nn.Module)
    }
    kinds = (
        [name for name, value in own.items() if isinstance(value, nn.Module)],
        [name for name, value in own.items() if inspect.isfunction(value) and _returns_model(value)],
        [name for name, value in own.items() if isinstance(value, type) and _is_model(value)],
    )
    names = next((names for names in kinds if names), [])
    if len(names) == 1:
        return names[0]
    if names:
        raise ParameterError(
            f"{path.name} has {', '.join(names)}; say which is meant, {path.name}:{names[-1]} for example"
        )
    raise ParameterError(
        f"{path.name} has no torch.nn.Module, no class of one without arguments and no function that is "
        f"marked to return one; name what makes it, {path.name}:name"
    )


def _returns_model(function: Callable[..., Any]) -> bool:
    try:
        returns = inspect.signature(function, eval_str=True).return_annotation
    except (NameError, TypeError, ValueError):  # An annotation of names that only a type checker knows.
        return False
    return isinstance(returns, type) and issubclass(returns, nn.Module) and _without_arguments(function)


def _is_model(kind: type) -> bool:
    return issubclass(kind, nn.Module) and _without_arguments(kind)


def _without_arguments(made: Callable[..., Any]) -> bool:
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(
        parameter.default is not inspect.Parameter.empty or parameter.kind in free
        for parameter in inspect.signature(made).parameters.values()
    )
