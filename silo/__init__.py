"""A data holder's side: local training over the flat vectors that ``secagg`` protects.

Exports are lazy (PEP 562), so that ``import silo`` loads neither torch nor scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from secagg.errors import MissingExtra
from secagg.explanation import explained

if TYPE_CHECKING:
    from silo.manifest import Manifest
    from silo.sklearn_trainer import SklearnTrainer
    from silo.split_torch import TorchNetworks
    from silo.torch_trainer import TorchTrainer

__all__ = ["Manifest", "SklearnTrainer", "TorchNetworks", "TorchTrainer"]

_MODULES = {
    "Manifest": "silo.manifest",
    "SklearnTrainer": "silo.sklearn_trainer",
    "TorchNetworks": "silo.split_torch",
    "TorchTrainer": "silo.torch_trainer",
}

# Top-level package that may be missing -> (extra that brings it, its name for pip).
_EXTRAS = {
    "torch": ("torch", "torch"),
    "safetensors": ("torch", "safetensors"),
    "sklearn": ("examples", "scikit-learn"),
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'silo' has no attribute {name!r}")
    with explained():
        try:
            return getattr(importlib.import_module(_MODULES[name]), name)
        except ModuleNotFoundError as missing:
            package = (missing.name or "").partition(".")[0]
            if package not in _EXTRAS:
                raise
            raise MissingExtra(*_EXTRAS[package]) from missing


def __dir__() -> list[str]:
    return sorted(__all__)
