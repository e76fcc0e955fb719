"""``LocalDPSGD`` and ``DistributedDP``: what to hide, how well, and where the noise is added.

Source: Abadi et al. 2016, *Deep Learning with Differential Privacy* (DP-SGD); Kairouz, Liu, Steinke 2021,
*The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation*.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

from secagg.errors import ParameterError
from secagg.explanation import explained
from secagg.privacy.calibration import Privacy
from secagg.privacy.clip import LEAST_NORM, MOST_NORM
from secagg.privacy.events import Unit
from secagg.ranges import positive, real, shown


@dataclass(frozen=True)
class LocalDPSGD:
    """Each silo trains with DP-SGD: its own noise hides each of its records, whoever reads its update.

    Trusts nobody. Every silo adds the whole noise, so with few silos a model suffers.

    Args:
        target: epsilon and delta of one record, after all rounds.
        l2_clip_norm: largest L2 norm of the gradient of one record, above 0.
        sampling_rate: probability with which a record is in a step, above 0, at most 1. A round of ``epochs``
            passes has ``epochs / sampling_rate`` steps.

    Raises:
        ParameterError: a value is of another type or outside its range.
    """

    target: Privacy
    _: KW_ONLY
    l2_clip_norm: float = 1.0
    sampling_rate: float = 0.01

    @explained()
    def __post_init__(self) -> None:
        _check_target(self.target)
        object.__setattr__(self, "l2_clip_norm", _norm(self.l2_clip_norm))
        object.__setattr__(self, "sampling_rate", _rate(self.sampling_rate))


@dataclass(frozen=True)
class DistributedDP:
    """Each silo adds a share of the noise, and the sum, which is opened whole or not at all, has all of it.

    Trusts that at most the cohort's ``colluders`` tell the coordinator their shares. The noise is there once,
    however many silos there are.

    Args:
        target: epsilon and delta of one unit, after all rounds.
        unit: what is hidden: ``"silo"``, all that one silo contributes to the model; or ``"record"``, one
            record of one silo, where a round is one step over a sample of all silos' records.
        l2_clip_norm: largest L2 norm of one silo's update, or of the gradient of one record; above 0.
        sampling_rate: of unit ``"record"``: probability with which a record is in a step.
        batch_size: of unit ``"record"``: records that are expected in a step, of all silos together. The sum
            is divided by it, so it must not be computed from what silos keep to themselves. The step has the
            length of ``server_learning_rate``.

    Raises:
        ParameterError: a value is of another type or outside its range, or belongs to the other unit.
    """

    target: Privacy
    _: KW_ONLY
    unit: Unit = "silo"
    l2_clip_norm: float = 1.0
    sampling_rate: float | None = None
    batch_size: float | None = None

    @explained()
    def __post_init__(self) -> None:
        _check_target(self.target)
        object.__setattr__(self, "l2_clip_norm", _norm(self.l2_clip_norm))
        if self.unit not in {"silo", "record"}:
            raise ParameterError(f'unit is {shown(self.unit)}, must be "silo" or "record"')
        if self.unit == "silo":
            if self.sampling_rate is not None or self.batch_size is not None:
                raise ParameterError(
                    'sampling_rate and batch_size are of unit="record"; silos are not sampled'
                )
            return
        if self.sampling_rate is None or self.batch_size is None:
            raise ParameterError(
                'unit="record" needs sampling_rate, for example 0.01, and batch_size, about sampling_rate '
                "times the records that all silos have together"
            )
        object.__setattr__(self, "sampling_rate", _rate(self.sampling_rate))
        object.__setattr__(self, "batch_size", positive("batch_size", self.batch_size))


PrivacyMode: TypeAlias = LocalDPSGD | DistributedDP


def _check_target(target: object) -> None:
    if not isinstance(target, Privacy):
        raise ParameterError(
            f"target is {shown(target)}, must be Privacy(epsilon=..., delta=..., rounds=...)"
        )


def _norm(value: float) -> float:
    norm = positive("l2_clip_norm", value)
    if not LEAST_NORM <= norm <= MOST_NORM:
        raise ParameterError(f"l2_clip_norm is {norm:g}, must be 2**-512 to 2**512")
    return norm


def _rate(value: float) -> float:
    rate = real("sampling_rate", value)
    if not 0.0 < rate <= 1.0:
        raise ParameterError(f"sampling_rate is {rate:g}, must be above 0 and at most 1")
    return rate
