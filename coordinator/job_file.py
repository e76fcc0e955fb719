"""``job.toml``: what a data scientist asks a federation for; the same names and defaults as ``Federation``.

It says what is asked for and checks each value. Whether the silos agree is theirs to say, and what the
numbers mean together is planned when the roster and the model are known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from secagg.ckks.params import CKKS
from secagg.cohort import MIN_HONEST
from secagg.errors import ParameterError
from secagg.learning.request import MAX_ROUNDS
from secagg.learning.strategies import Strategy
from secagg.masking.params import Masking
from secagg.operator_tables import AppPath, FilePath, OperatorFile, Table
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.plain import Plain
from secagg.privacy.calibration import Privacy
from secagg.privacy.params import DistributedDP, LocalDPSGD, PrivacyMode
from secagg.roster import SILO_ID_PATTERN
from secagg.scheme import Scheme
from secagg.terms import SchemeTag

_NAME = re.compile(SILO_ID_PATTERN)


def _name(text: str) -> str:
    if not _NAME.match(text):
        raise ParameterError("a job's name is 1 to 64 of letters, digits, dot, underscore, hyphen")
    return text


_STRATEGIES: Mapping[str, type[Strategy]] = {kind.__name__: kind for kind in get_args(Strategy)}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MaskingTable(Table):
    """``[masking]``: as ``Masking``; what is not given follows from the number of silos."""

    colluders: int | None = None
    threshold: int | None = None
    min_honest: int = MIN_HONEST

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.scheme()
        return self

    def scheme(self) -> Masking:
        """Return the scheme."""
        return Masking(colluders=self.colluders, threshold=self.threshold, min_honest=self.min_honest)


class EncryptionTable(MaskingTable):
    """``[encryption]``: as the schemes of that name; what is not given follows from the number of silos."""


class PrivacyTable(Table):
    """``[privacy]``: differential privacy, as ``LocalDPSGD`` and ``DistributedDP``.

    Attributes:
        mode: "local" for the whole noise at every silo, "distributed" for shares of it in the sum.
        rounds: over which the target holds; not given, those of the job.
    """

    mode: Literal["local", "distributed"]
    epsilon: Positive
    delta: Positive
    rounds: int | None = Field(default=None, ge=1, le=MAX_ROUNDS)
    unit: Literal["silo", "record"] | None = None
    l2_clip_norm: Positive = 1.0
    sampling_rate: Positive | None = None
    batch_size: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.privacy(1)
        return self

    def privacy(self, rounds: int) -> PrivacyMode:
        """Return the mode, for a job of so many rounds."""
        target = Privacy(epsilon=self.epsilon, delta=self.delta, rounds=self.rounds or rounds)
        given = {
            name: value
            for name in ("unit", "l2_clip_norm", "sampling_rate", "batch_size")
            if (value := getattr(self, name)) is not None
        }
        if self.mode == "distributed":
            return DistributedDP(target, **given)
        if others := given.keys() - {"l2_clip_norm", "sampling_rate"}:
            raise ParameterError(f'mode "local" takes no {", ".join(sorted(others))}')
        return LocalDPSGD(target, **given)


class StrategyTable(Table):
    """``[strategy]``: a strategy's name and its parameters; what is not given is the strategy's default."""

    name: Literal["FedAvg", "FedProx", "FedAdam", "FedYogi"] = "FedAvg"
    server_learning_rate: float | None = None
    mu: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    tau: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.strategy()
        return self

    def strategy(self) -> Strategy:
        """Return the strategy."""
        kind = _STRATEGIES[self.name]
        given = {name: getattr(self, name) for name in self.model_fields_set - {"name"}}
        takes = {parameter.name: parameter.default is MISSING for parameter in fields(kind)}
        if others := given.keys() - takes:
            raise ParameterError(
                f"{self.name} has no {', '.join(sorted(others))}; it takes {', '.join(takes)}"
            )
        if lacking := [name for name, needed in takes.items() if needed and name not in given]:
            raise ParameterError(f"{self.name} needs {', '.join(lacking)}")
        return kind(**given)


class TrainingTable(Table):
    """``[training]``: what trainers are told."""

    epochs: int = Field(default=1, ge=1)
    learning_rate: Positive | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)


class NumbersTable(Table):
    """``[numbers]``: the declared bounds, from which the encoding is planned."""

    clip: Positive = 8.0
    weight_cap: Positive = 100_000.0
    least_total_weight: Positive = 1_000.0
    precision: Positive = 1e-4
    metric_bound: Positive = 100.0
    word_bits: Literal[32, 64] | None = None


class WaitsTable(Table):
    """``[waits]``: how long for training and for a phase without progress, and how many attempts a round."""

    training_seconds: Positive = 3600.0
    phase_seconds: Positive = 60.0
    attempts: int = Field(default=3, ge=1, le=100)


class JobFile(OperatorFile):
    """The whole file.

    Attributes:
        name: of the job.
        rounds: of training; one sum of metrics follows.
        app: training code that the silos have approved.
        initial: safetensors of the first global weights.
        metrics: which are opened, as means.
        scheme: the protection.
        silos: how many are asked for; with fewer the run is degraded. None for the whole roster.
        masking: parameters of the scheme "masking"; not to be given for another.
        encryption: the same of the schemes "paillier", "threshold-paillier" and "ckks".
        privacy: differential privacy; not given for none.
        strategy: how the mean update becomes the next model.
        training: what trainers are told.
        numbers: declared bounds.
        waits: deadlines.
    """

    name: Annotated[str, AfterValidator(_name)]
    rounds: int = Field(ge=1, le=MAX_ROUNDS)
    app: AppPath
    initial: FilePath
    metrics: Annotated[tuple[str, ...], Field(strict=False)] = ()
    scheme: SchemeTag = "masking"
    silos: int | None = Field(default=None, ge=1)
    masking: MaskingTable = MaskingTable()
    encryption: EncryptionTable = EncryptionTable()
    privacy: PrivacyTable | None = None
    strategy: StrategyTable = StrategyTable()
    training: TrainingTable = TrainingTable()
    numbers: NumbersTable = NumbersTable()
    waits: WaitsTable = WaitsTable()

    @model_validator(mode="before")
    @classmethod
    def _not_vertical(cls, document: object) -> object:
        if isinstance(document, dict) and document.get("kind") == "vertical":
            raise ParameterError(
                "a vertical job is started by its parties, each with its own table. Every party types: "
                "silo vertical fit job.toml --data customers.parquet --id customer_id"
            )
        return document

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = {"masking": "masking", "plain": None}.get(self.scheme, "encryption")
        for table in self.model_fields_set & {"masking", "encryption"} - {own}:
            raise ParameterError(f'[{table}] is given, and scheme is "{self.scheme}": leave one out')
        if len(set(self.metrics)) < len(self.metrics):
            raise ParameterError("metrics names one twice")
        if self.privacy is not None and self.metrics:
            raise ParameterError(
                "metrics would leave without noise and void what [privacy] promises; leave them out, and "
                "measure the model on data of your own"
            )
        return self

    def protection(self) -> Scheme:
        """Return the scheme."""
        given = {name: getattr(self.encryption, name) for name in ("colluders", "threshold", "min_honest")}
        match self.scheme:
            case "masking":
                return self.masking.scheme()
            case "paillier":
                return Paillier(**given)
            case "threshold-paillier":
                return ThresholdPaillier(**given)
            case "ckks":
                return CKKS(**given)
            case "plain":
                return Plain()
