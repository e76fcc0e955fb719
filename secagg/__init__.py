"""Secure aggregation: sums over silos, and models learned from them, that show no single silo.

This module only names the public API; each name is loaded when it is first used (PEP 562), so that importing
one scheme, or ``secagg --help``, loads nothing else.

Every error is a ``SecaggError``: ``except secagg.SecaggError`` catches all. Those that a program tells apart
are here too:

- ``ParameterError``: an argument or a configuration file is wrong;
- ``InputRefused``: a vector, weight or metric cannot be encoded;
- ``TooFewSilos``: a round lost more silos than it survives;
- ``PolicyRefused``: a silo's own policy says no;
- ``TrustError``: a certificate, token or pin is not the one that was confirmed;
- ``EnvironmentFault``: a file, a port or a package is not there;
- ``SiloLeftOut``, a warning: a round went on without a silo.

The whole tree is in ``secagg.errors``; ``secagg explain TooFewSilos`` says what a class means.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secagg import errors, psi
    from secagg.ckks.params import CKKS
    from secagg.errors import (
        EnvironmentFault,
        InputRefused,
        ParameterError,
        PolicyRefused,
        SecaggError,
        SiloLeftOut,
        TooFewSilos,
        TrustError,
    )
    from secagg.estimates import estimate, explain
    from secagg.learning.federation import Federation
    from secagg.learning.history import History
    from secagg.learning.strategies import FedAdam, FedAvg, FedProx, FedYogi
    from secagg.learning.trainer import Evaluation, Trainer, TrainingSettings, Update
    from secagg.masking.params import Masking
    from secagg.paillier.params import Paillier, ThresholdPaillier
    from secagg.plain import Plain
    from secagg.privacy.calibration import Privacy
    from secagg.privacy.params import DistributedDP, LocalDPSGD
    from secagg.sums import secure_mean, secure_sum

__version__ = "0.1.0"

__all__ = [
    "CKKS",
    "DistributedDP",
    "EnvironmentFault",
    "Evaluation",
    "FedAdam",
    "FedAvg",
    "FedProx",
    "FedYogi",
    "Federation",
    "History",
    "InputRefused",
    "LocalDPSGD",
    "Masking",
    "Paillier",
    "ParameterError",
    "Plain",
    "PolicyRefused",
    "Privacy",
    "SecaggError",
    "SiloLeftOut",
    "ThresholdPaillier",
    "TooFewSilos",
    "Trainer",
    "TrainingSettings",
    "TrustError",
    "Update",
    "errors",
    "estimate",
    "explain",
    "psi",
    "secure_mean",
    "secure_sum",
]

_MODULES = {
    "secagg.ckks.params": ("CKKS",),
    "secagg.errors": (
        "EnvironmentFault",
        "InputRefused",
        "ParameterError",
        "PolicyRefused",
        "SecaggError",
        "SiloLeftOut",
        "TooFewSilos",
        "TrustError",
    ),
    "secagg.estimates": ("estimate", "explain"),
    "secagg.learning.federation": ("Federation",),
    "secagg.learning.history": ("History",),
    "secagg.learning.strategies": ("FedAdam", "FedAvg", "FedProx", "FedYogi"),
    "secagg.learning.trainer": ("Evaluation", "Trainer", "TrainingSettings", "Update"),
    "secagg.masking.params": ("Masking",),
    "secagg.paillier.params": ("Paillier", "ThresholdPaillier"),
    "secagg.plain": ("Plain",),
    "secagg.privacy.calibration": ("Privacy",),
    "secagg.privacy.params": ("DistributedDP", "LocalDPSGD"),
    "secagg.sums": ("secure_mean", "secure_sum"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # A type checker that sees it would accept any name.

    def __getattr__(name: str) -> object:
        if name in {"errors", "psi"}:
            return import_module(f"secagg.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'secagg' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
