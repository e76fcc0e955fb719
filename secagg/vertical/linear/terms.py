"""What the parties of a regression agree on before anything of their data leaves them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from secagg.errors import ParameterError
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.ranges import positive, whole
from secagg.roster import check_silo
from secagg.vertical.linear.links import IDENTITY, Polynomial, least_squares

Model: TypeAlias = Literal["logistic", "linear"]
LinkChoice: TypeAlias = Literal["open", "poly"]
FEWEST_PARTIES, MOST_PARTIES = 2, 5
MOST_STEPS = 1000
LEAST_L2, LEAST_TOLERANCE = 1e-12, 1e-9
ROWS_PER_COLUMN = 10
"""With as few rows as columns a party could solve its own gradients for the residuals."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is trained.

    Attributes:
        model: ``"logistic"`` or ``"linear"``.
        link: ``"open"``: the label party sees each row's joint sum along every direction; logistic only.
            ``"poly"``: nobody sees any, and the logistic function is a polynomial; linear models always.
        degree: of the polynomial: 1, or 3 between two parties.
        reach: the polynomial is fitted on [-reach, reach]; above 0.
        l2: weight of half the squared coefficients beside the sum of losses, at least 1e-12: scikit-learn's
            ``1 / C``, and ``alpha`` of its ridge regression. The intercept is not in it.
        steps: gradients at the most, 1 to 1000; each shows something.
        tolerance: training ends where the gradient, in coordinates that make the loss round, is shorter, or
            so short that fixed point tells no more; at least 1e-9.

    Raises:
        ParameterError: out of range, or a word that there is not.
    """

    model: Model = "logistic"
    link: LinkChoice = "open"
    degree: int = 1
    reach: float = 5.0
    l2: float = 1.0
    steps: int = 100
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if self.model not in get_args(Model):
            raise ParameterError(f"model is {self.model!r}, must be one of {', '.join(get_args(Model))}")
        if self.link not in get_args(LinkChoice):
            raise ParameterError(f"link is {self.link!r}, must be one of {', '.join(get_args(LinkChoice))}")
        if self.model == "linear" and self.link != "poly":
            raise ParameterError("linear regression needs no open sums: leave the link as it is")
        if self.model == "linear" and self.degree != 1:
            raise ParameterError("linear regression has no polynomial: leave the degree as it is")
        # Kept as Python's own numbers, which have one encoding in a digest and in a file.
        for name in ("degree", "steps"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=1))
        for name in ("reach", "l2", "tolerance"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        if self.degree not in {1, 3}:
            raise ParameterError(f"degree is {self.degree}, must be 1 or 3")
        if self.l2 < LEAST_L2:
            raise ParameterError(f"l2 is {self.l2}, must be at least {LEAST_L2}")
        if self.tolerance < LEAST_TOLERANCE:
            raise ParameterError(f"tolerance is {self.tolerance}, must be at least {LEAST_TOLERANCE}")
        if self.steps > MOST_STEPS:
            raise ParameterError(f"steps is {self.steps}, must be at most {MOST_STEPS}")

    @property
    def polynomial(self) -> Polynomial:
        """What stands for the link where nobody sees sums."""
        return IDENTITY if self.model == "linear" else least_squares(self.degree, self.reach)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One training.

    Attributes:
        settings: see there.
        records: digest of the alignment, 32 bytes.
        rows: of it.
        parties: 2 to 5, in an order that all have.
        label_party: one of them.

    Raises:
        ParameterError: too few or too many parties, one twice, no label party among them, or more of them
            than the polynomial is for.
    """

    settings: Settings
    records: bytes = field(repr=False)
    rows: int
    parties: tuple[SiloId, ...]
    label_party: SiloId

    def __post_init__(self) -> None:
        for party in self.parties:
            check_silo(party)
        count = len(set(self.parties))
        if not FEWEST_PARTIES <= count <= MOST_PARTIES or count < len(self.parties):
            raise ParameterError(f"{FEWEST_PARTIES} to {MOST_PARTIES} parties, each once, train a regression")
        if self.label_party not in self.parties:
            raise ParameterError("the label party is none of the parties")
        if len(self.records) != 32:
            raise ParameterError("the digest of an alignment is 32 bytes")
        whole("rows", self.rows, least=1)
        if self.settings.link == "poly" and self.settings.degree == 3 and len(self.parties) > 2:
            raise ParameterError(
                f"degree 3 multiplies sums of {len(self.parties)} parties with each other, which plaintexts "
                "of two can do and of more cannot: take degree=1"
            )

    @property
    def feature_parties(self) -> tuple[SiloId, ...]:
        """All but the label party."""
        return tuple(party for party in self.parties if party != self.label_party)

    def others(self, name: SiloId) -> tuple[SiloId, ...]:
        """All but one."""
        return tuple(party for party in self.parties if party != name)

    def asks(self, name: SiloId) -> bool:
        """Whether a party learns its gradients from vectors that it must not learn."""
        return self.settings.link == "poly" or name != self.label_party

    def check_columns(self, name: SiloId, columns: int) -> None:
        """Refuse a party's columns where its gradients could be solved for what is hidden from it.

        Raises:
            ParameterError: too few rows.
        """
        if self.asks(name) and self.rows < ROWS_PER_COLUMN * columns:
            raise ParameterError(
                f"{name} has {columns} columns and {self.rows} rows are shared: at least "
                f"{ROWS_PER_COLUMN * columns} are needed, or its gradients could be solved for what is "
                "hidden in each row; train on fewer columns"
            )

    def shortest(self, coordinates: int, *, bits: int, curvature: float, holders: int) -> float:
        """Return how short a gradient must be: as the tolerance says, or as long as rounding alone makes it.

        A hidden vector is rounded to so many bits: errors of variance 2^(-2 bits) / 12. Squares of an asker's
        column add up to 1 / curvature at most. With degree 3 matrices are rounded too, anew in each step, and
        lose about as much. Thrice the length of vectors' errors is beyond both.

        Args:
            coordinates: of the gradient, over all parties.
            bits: of fraction.
            curvature: see ``Coordinates``.
            holders: vectors that are added up.
        """
        rounding = math.ldexp(math.sqrt(coordinates * holders / (12 * curvature)), -bits)
        return max(self.settings.tolerance, 3 * rounding)

    @property
    def digest(self) -> bytes:
        """What all parties mean, 32 bytes."""
        s = self.settings
        return digest(
            "vertical regression",
            (s.model, s.link, s.degree, s.reach, s.l2, s.steps, s.tolerance),
            self.records,
            self.rows,
            self.parties,
            self.label_party,
        )
