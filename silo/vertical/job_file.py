"""``job.toml`` of a vertical job: what its parties agree to learn from columns that each of them keeps.

Every party has the same file and starts it by itself; the digest of what it says is compared before anything
of a table is used. Where a party's own table lies is no part of it. Names and defaults are those of Python,
but for the link of ``[logistic]``: in one process nobody else looks on, and between silos an open link shows
the label party sums of its partners' columns. It is asked for by name.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from secagg.errors import MissingExtra

try:
    from pydantic import AfterValidator, Field, model_validator
except ModuleNotFoundError as missing:
    raise MissingExtra("silo", "pydantic") from missing

from secagg.errors import ParameterError
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.operator_tables import OperatorFile, Table
from secagg.psi.identifiers import Case, Duplicates, Rule, Spaces
from secagg.roster import check_silo
from secagg.vertical.linear.terms import MOST_PARTIES, LinkChoice, Terms
from secagg.vertical.linear.terms import Settings as RegressionSettings
from secagg.vertical.split.settings import SplitSettings
from secagg.vertical.trees.settings import Loss
from secagg.vertical.trees.settings import Settings as TreeSettings

Learning: TypeAlias = Literal["logistic", "linear", "trees", "split"]
LEARNING: tuple[Learning, ...] = get_args(Learning)
NETWORKS = {"hidden", "bottom_rate", "top_rate"}
"""Keys of ``[split]`` that are the networks'; each party builds its own."""
LONGEST_NAME = 48
"""Characters; the parties' meeting is called after the job."""


def _silo(name: str) -> str:
    check_silo(name)
    return name


def _job(name: str) -> str:
    check_silo(name)
    if len(name) > LONGEST_NAME or name.startswith("."):  # A folder has this name.
        raise ParameterError(f"a vertical job's name has at most {LONGEST_NAME} characters, the first no dot")
    return name


Name = Annotated[SiloId, AfterValidator(_silo)]


class AlignmentTable(Table):
    """``[alignment]``: how the records that all parties have are found.

    Attributes:
        case, spaces: as of ``secagg.psi.identifiers.Rule``.
        duplicates: what becomes of an identifier that several rows of one party have.
        smallest: with fewer shared records nothing is learned; each party's policy may ask for more.
    """

    case: Case = "fold"
    spaces: Spaces = "collapse"
    duplicates: Duplicates = "refuse"
    smallest: int = Field(default=0, ge=0)

    def rule(self) -> Rule:
        """Return how identifiers are read."""
        return Rule(case=self.case, spaces=self.spaces)


class LogisticTable(Table):
    """``[logistic]``: logistic regression; as ``LogisticRegression``, but that a link left out is hidden."""

    link: LinkChoice = "poly"
    l2: float = 1.0
    degree: int = 1
    reach: float = 5.0
    steps: int = 100
    tolerance: float = 1e-6

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.settings()
        return self

    def settings(self) -> RegressionSettings:
        """Return how it is trained."""
        return RegressionSettings(model="logistic", **self.model_dump())


class LinearTable(Table):
    """``[linear]``: linear regression; as ``LinearRegression``."""

    l2: float = 1.0
    steps: int = 100
    tolerance: float = 1e-6

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.settings()
        return self

    def settings(self) -> RegressionSettings:
        """Return how it is trained."""
        return RegressionSettings(model="linear", link="poly", **self.model_dump())


class TreesTable(Table):
    """``[trees]``: boosted trees; as ``GradientBoosting``."""

    trees: int = 100
    depth: int = 4
    learning_rate: float = 0.1
    bins: int = 32
    l2: float = 1.0
    min_child_rows: int = 20
    loss: Loss = "logistic"

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.settings()
        return self

    def settings(self) -> TreeSettings:
        """Return how trees are grown."""
        return TreeSettings(**self.model_dump())


class SplitTable(Table):
    """``[split]``: a split network of small torch networks; as ``SplitSettings`` and ``TorchNetworks``."""

    width: int = 16
    rounds: int = 5
    passes: int = 4
    batch: int = 64
    label_flip: float = 0.47
    embedding_clip: float = 4.0
    embedding_noise: float = 0.075
    gradient_clip: float = 0.01
    gradient_noise: float = 1.0
    hidden: int = Field(default=32, ge=1)
    bottom_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    top_rate: float = Field(default=1e-2, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.settings()
        return self

    def settings(self) -> SplitSettings:
        """Return how it is trained."""
        return SplitSettings(**self.model_dump(exclude=NETWORKS))

    def networks(self) -> dict[str, Any]:
        """Return what its networks are built with."""
        return self.model_dump(include=NETWORKS)


class PredictionTable(Table):
    """``[prediction]``: who learns scores.

    Attributes:
        to: the one party that does; None for the label party.
    """

    to: Name | None = None


class VerticalJob(OperatorFile):
    """The whole file.

    Attributes:
        kind: that it is one.
        name: of the job.
        parties: who take part, in one order at all of them.
        label_party: which of them has the labels.
        alignment: how shared records are found.
        logistic, linear, trees, split: how the parties learn; one of them is given.
        prediction: who learns scores.
    """

    kind: Literal["vertical"]
    name: Annotated[str, AfterValidator(_job)]
    parties: Annotated[tuple[Name, ...], Field(strict=False, min_length=2, max_length=MOST_PARTIES)]
    label_party: Name
    alignment: AlignmentTable = AlignmentTable()
    logistic: LogisticTable | None = None
    linear: LinearTable | None = None
    trees: TreesTable | None = None
    split: SplitTable | None = None
    prediction: PredictionTable = PredictionTable()

    @model_validator(mode="before")
    @classmethod
    def _is_vertical(cls, document: object) -> object:
        if isinstance(document, dict) and "kind" not in document:
            raise ParameterError(
                'this is no vertical job, which says kind = "vertical"; a job of many silos with the same '
                "columns is started by: coordinator run start"
            )
        return document

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in LEARNING if getattr(self, name) is not None]
        if len(given) != 1:
            tables = ", ".join(f"[{name}]" for name in LEARNING)
            found = " and ".join(f"[{name}]" for name in given) or "none"
            raise ParameterError(f"one of {tables} says how the parties learn; here is {found}")
        if len(set(self.parties)) < len(self.parties):
            raise ParameterError("parties names one twice")
        for key, name in (("label_party", self.label_party), ("[prediction] to", self.scores_to)):
            if name not in self.parties:
                raise ParameterError(f"{key} is none of the parties: {', '.join(self.parties)}")
        if (regression := self.logistic or self.linear) is not None:
            # What so many parties cannot compute is said now, and not when they have met.
            Terms(
                settings=regression.settings(),
                records=bytes(32),
                rows=1,
                parties=self.parties,
                label_party=self.label_party,
            )
        return self

    @property
    def learning(self) -> Learning:
        """How the parties learn."""
        return next(name for name in LEARNING if getattr(self, name) is not None)

    @property
    def scores_to(self) -> SiloId:
        """Who learns scores."""
        return self.prediction.to or self.label_party

    @property
    def is_binary(self) -> bool:
        """Whether labels are 0 and 1, and not any numbers."""
        return self.linear is None and (self.trees is None or self.trees.loss == "logistic")

    @property
    def digest(self) -> bytes:
        """Of all that the file says, with what it leaves to defaults; 32 bytes."""
        said = self.model_dump(mode="json") | {"prediction": self.scores_to}
        return digest("vertical job", json.dumps(said, sort_keys=True))
