"""What a data scientist asks a coordinator for, as it travels: the arguments of ``Federation``, and a name.

It asks; the silos' policies decide. Whoever receives it builds a ``Run`` of it, which checks every value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeAlias

import msgspec

from secagg.ckks.params import CKKS
from secagg.cohort import Cohort
from secagg.errors import ParameterError
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.document import KeyDocument
from secagg.learning.bounds import Bounds
from secagg.learning.history import Record
from secagg.learning.model import Blocks, SealedBase
from secagg.learning.run import B, Run
from secagg.learning.settings import TrainingPlan, strategy_of
from secagg.learning.strategies import Strategy
from secagg.masking.params import Masking
from secagg.names import WordBits
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.plain import Plain
from secagg.privacy.calibration import Privacy
from secagg.privacy.events import Unit
from secagg.privacy.params import DistributedDP, LocalDPSGD, PrivacyMode
from secagg.roster import Roster
from secagg.scheme import Scheme
from secagg.terms import (
    CKKSParameters,
    MaskingParameters,
    Name,
    PaillierParameters,
    PlainParameters,
    SchemeParameters,
    SchemeTag,
    Seconds,
    Setting,
    ThresholdPaillierParameters,
)

Text = Annotated[str, msgspec.Meta(max_length=256)]
MAX_ROUNDS = 100_000


class MaskingAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="masking"):
    """``Masking`` with these arguments."""

    colluders: int | None
    threshold: int | None
    min_honest: int


class PlainAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="plain"):
    """``Plain``."""


class EncryptedAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ciphertexts, with these arguments; the key says how long they are."""

    colluders: int | None
    threshold: int | None
    min_honest: int


class PaillierAsked(EncryptedAsked, frozen=True, forbid_unknown_fields=True, tag="paillier"):
    """``Paillier``."""


class ThresholdPaillierAsked(
    EncryptedAsked, frozen=True, forbid_unknown_fields=True, tag="threshold-paillier"
):
    """``ThresholdPaillier``."""


class CKKSAsked(EncryptedAsked, frozen=True, forbid_unknown_fields=True, tag="ckks"):
    """``CKKS``."""


class LocalAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="local"):
    """``LocalDPSGD`` with these arguments."""

    epsilon: float
    delta: float
    rounds: int
    l2_clip_norm: float
    sampling_rate: float


class DistributedAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="distributed"):
    """``DistributedDP`` with these arguments."""

    epsilon: float
    delta: float
    rounds: int
    unit: Unit
    l2_clip_norm: float
    sampling_rate: float | None
    batch_size: float | None


PrivacyAsked: TypeAlias = LocalAsked | DistributedAsked
SchemeAsked: TypeAlias = MaskingAsked | PaillierAsked | ThresholdPaillierAsked | CKKSAsked | PlainAsked


class RunRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run on the silos of a coordinator.

    Attributes:
        name: of the job, for people.
        rounds: of training.
        app: import path of code that the silos have approved.
        scheme, strategy: the protection; the strategy as it describes itself.
        silos: fewer in any sum make the run degraded; None for the whole roster.
        layout: (name, shape) of the tensors in the vector of weights, in order, for the model's file; empty
            for one tensor ``weights``.
        training_seconds, phase_seconds, attempts: as ``RoundCoordinator`` takes them.

    The others are the arguments of ``Federation`` of the same names.
    """

    name: Name
    rounds: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROUNDS)]
    app: Text
    scheme: SchemeAsked
    strategy: tuple[Setting, ...]
    clip: float
    weight_cap: float
    least_total_weight: float
    precision: float
    metric_bound: float
    metrics: tuple[Text, ...]
    epochs: int
    learning_rate: float | None
    seed: int
    word_bits: WordBits | None
    silos: int | None = None
    layout: tuple[tuple[Text, tuple[int, ...]], ...] = ()
    privacy: PrivacyAsked | None = None
    training_seconds: Seconds = 3600.0
    phase_seconds: Seconds = 60.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3

    def asked_strategy(self) -> Strategy:
        """Return the strategy.

        Raises:
            ParameterError: there is none of that name or with such parameters.
        """
        try:
            return strategy_of(dict(self.strategy))
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError("the strategy is none that this version knows") from error

    def run(
        self,
        roster: Roster,
        model: B,
        *,
        federation: str,
        job: str,
        keep: Callable[[Blocks, Record], B],
        seal: Callable[[SealedBase, Record], B] | None = None,
        key: EstablishedKey | None = None,
        records: Sequence[Record] = (),
    ) -> Run[B]:
        """Return the run, not yet begun, or as far as it came before its process ended.

        Args:
            roster: whose silos.
            model: the base of the next round.
            federation: its name.
            job: new for every run.
            keep: as of ``Run``.
            seal: as of ``Run``.
            key: as of ``Run``.
            records: of the rounds before.

        Raises:
            ParameterError, InputRefused: a value that no run can have.
        """
        if not self.app:
            raise ParameterError("a run on silos names the code that they train with: app")
        if self.silos is not None and not 1 <= self.silos <= roster.n:
            raise ParameterError(f"silos is {self.silos}; the roster has {roster.n}")
        plan = TrainingPlan(
            strategy=self.asked_strategy(),
            length=model.length,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=self.seed,
            app=self.app,
        )
        bounds = Bounds(
            cohort=roster.n,
            metrics=self.metrics,
            clip=self.clip,
            weight_cap=self.weight_cap,
            least_total_weight=self.least_total_weight,
            precision=self.precision,
            metric_bound=self.metric_bound,
            word_bits=self.word_bits,
        )
        return Run(
            roster,
            scheme=protection_of(self.scheme, roster.n, key=None if key is None else key.document),
            key=key,
            plan=plan,
            bounds=bounds,
            privacy=None if self.privacy is None else privacy_mode(self.privacy),
            rounds=self.rounds,
            model=model,
            keep=keep,
            seal=seal,
            records=records,
            federation=federation,
            job=job,
            training_seconds=self.training_seconds,
            phase_seconds=self.phase_seconds,
            attempts=self.attempts,
        )


def protection_of(asked: SchemeAsked, n: int, *, key: KeyDocument | None) -> SchemeParameters:
    """Return the protection of ``n`` silos that ``asked`` stands for.

    Args:
        asked: the scheme.
        n: silos in the roster.
        key: that is encrypted under; None where there is none.

    Raises:
        ParameterError: the scheme does not protect so few silos, there is no key for it, or the key is opened
            by another number of silos than is asked for.
    """
    if isinstance(asked, PlainAsked):
        return PlainParameters()
    threshold = asked.threshold
    if isinstance(asked, ThresholdPaillierAsked) and key is not None:
        if threshold not in {None, key.threshold}:
            raise ParameterError(
                f"threshold is {threshold}, and {key.threshold} silos open with the key that there is",
                parameter="t",
            )
        threshold = key.threshold
    cohort = Cohort.of(n, c=asked.colluders, t=threshold, k_min=asked.min_honest)
    if isinstance(asked, MaskingAsked):
        return MaskingParameters(cohort)
    if key is None:
        tag = tag_of(asked)
        raise ParameterError(
            f"there is no {tag} key yet: let the silos make one, coordinator key make --scheme {tag}"
        )
    match asked:
        case PaillierAsked():
            return PaillierParameters(cohort, key.key)
        case ThresholdPaillierAsked():
            return ThresholdPaillierParameters(cohort, key.key)
        case CKKSAsked():
            return CKKSParameters(cohort, key.key)


def privacy_mode(asked: PrivacyAsked) -> PrivacyMode:
    """Return the mode that ``asked`` stands for.

    Raises:
        ParameterError: a value is outside its range.
    """
    target = Privacy(epsilon=asked.epsilon, delta=asked.delta, rounds=asked.rounds)
    match asked:
        case LocalAsked():
            return LocalDPSGD(target, l2_clip_norm=asked.l2_clip_norm, sampling_rate=asked.sampling_rate)
        case DistributedAsked():
            return DistributedDP(
                target,
                unit=asked.unit,
                l2_clip_norm=asked.l2_clip_norm,
                sampling_rate=asked.sampling_rate,
                batch_size=asked.batch_size,
            )


def asked_privacy(mode: PrivacyMode) -> PrivacyAsked:
    """Return what stands for ``mode`` in a request."""
    target = mode.target.epsilon, mode.target.delta, mode.target.rounds
    match mode:
        case LocalDPSGD():
            return LocalAsked(*target, mode.l2_clip_norm, mode.sampling_rate)
        case DistributedDP():
            return DistributedAsked(
                *target, mode.unit, mode.l2_clip_norm, mode.sampling_rate, mode.batch_size
            )


def tag_of(asked: SchemeAsked) -> SchemeTag:
    """Return the name of the scheme."""
    match asked:
        case MaskingAsked():
            return "masking"
        case PaillierAsked():
            return "paillier"
        case ThresholdPaillierAsked():
            return "threshold-paillier"
        case CKKSAsked():
            return "ckks"
        case PlainAsked():
            return "plain"


def asked_of(scheme: Scheme) -> SchemeAsked:
    """Return what stands for ``scheme`` in a request."""
    if isinstance(scheme, Plain):
        return PlainAsked()
    arguments = scheme.colluders, scheme.threshold, scheme.min_honest
    match scheme:
        case Masking():
            return MaskingAsked(*arguments)
        case Paillier():
            return PaillierAsked(*arguments)
        case ThresholdPaillier():
            return ThresholdPaillierAsked(*arguments)
        case CKKS():
            return CKKSAsked(*arguments)


def strategy_pairs(strategy: Strategy) -> tuple[Setting, ...]:
    """Return what stands for ``strategy`` in a request."""
    return tuple(sorted(strategy.describe().items()))
