"""``LogisticRegression`` and ``LinearRegression``: all parties of a regression in one process.

Every party's side has that party's data alone, and all that they tell each other travels in the bytes of the
wire; between silos the same sides run (``training_side``, ``prediction_side``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from secagg.conversation import Watch, together
from secagg.errors import UsageError
from secagg.names import RealVector, SiloId
from secagg.vertical.alignment import Alignment
from secagg.vertical.checkpoints import Checkpoints, InMemory
from secagg.vertical.linear.learned import Learned
from secagg.vertical.linear.parts import ModelPart
from secagg.vertical.linear.prediction import predict
from secagg.vertical.linear.terms import LinkChoice, Settings, Terms
from secagg.vertical.linear.training import training_side
from secagg.vertical.linear.words import report_of, seen_in_prediction
from secagg.vertical.report import Report, Seen


class Regression:
    """What both regressions are.

    Attributes:
        settings: of the training.
        parts: party -> its part of the model; empty before ``fit``.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.parts: dict[SiloId, ModelPart] = {}
        self._learned: dict[SiloId, Learned] = {}
        self._terms: Terms | None = None
        self._predicted: list[Seen] = []

    def fit(
        self,
        alignment: Alignment,
        *,
        checkpoints: Mapping[SiloId, Checkpoints] | None = None,
        watch: Watch | None = None,
    ) -> Self:
        """Train on aligned records.

        Args:
            alignment: of 2 to 5 parties, one of which has labels.
            checkpoints: party -> where it keeps how far it is, to go on from; in memory if None.
            watch: told of every frame.

        Raises:
            InputRefused: labels are not 0 and 1, or columns cannot be told apart.
            ParameterError: no labels, too many parties, or too few rows for so many columns.
            RoundAborted: the loss has no minimum that can be found.

        Guarantees:
            Coefficients are those of the pooled data, up to the tolerance.
            ``parts[name]`` has coefficients of that party's columns only.
        """
        terms = Terms(
            settings=self.settings,
            records=alignment.digest,
            rows=alignment.count,
            parties=alignment.names,
            label_party=alignment.label_party,
        )
        kept = checkpoints or {}
        sides = {
            party.name: training_side(
                party.name,
                terms,
                party.columns,
                alignment.features(party.name),
                alignment.labels() if party.name == alignment.label_party else None,
                kept.get(party.name) or InMemory(),
            )
            for party in alignment.parties
        }
        self._learned = together(sides, watch=watch)
        self.parts = {name: learned.part for name, learned in self._learned.items()}
        self._terms, self._predicted = terms, []
        return self

    @property
    def converged(self) -> bool:
        """Whether training ended before the most steps.

        Raises:
            UsageError: nothing was trained.
        """
        self._fitted()
        return all(learned.converged for learned in self._learned.values())

    def predict(
        self, alignment: Alignment, *, to: SiloId | None = None, watch: Watch | None = None
    ) -> RealVector:
        """Return scores in the order of an alignment, as the party that gets them has them.

        Args:
            alignment: of the same parties and columns; labels are not needed.
            to: who gets the scores; the label party of the training if None.
            watch: told of every frame.

        Returns:
            float64, shape (count,): probabilities of a logistic model, else expected labels.

        Raises:
            InputRefused: other columns than the model is for.
            ParameterError: other parties, or ``to`` is none of them.
            UsageError: nothing was trained.
        """
        terms = self._fitted()
        scores = predict(self.parts, alignment, to=to, watch=watch)
        self._predicted += seen_in_prediction(terms, to or terms.label_party, alignment.count)
        return scores

    def report(self) -> Report:
        """Return who saw what, in training and in predictions since.

        Raises:
            UsageError: nothing was trained.
        """
        return report_of(self._fitted(), self._learned, self._predicted)

    def _fitted(self) -> Terms:
        if self._terms is None:
            raise UsageError("nothing was trained: call fit first")
        return self._terms


class LogisticRegression(Regression):
    """Logistic regression: the objective of scikit-learn's with ``C = 1 / l2``.

    Args:
        link: ``"open"``: the logistic function itself, and the label party sees sums of columns in each row.
            ``"poly"``: a polynomial in its place, and nobody sees any.
        l2, degree, reach, steps, tolerance: see ``Settings``.

    Raises:
        ParameterError: see ``Settings``.
    """

    def __init__(
        self,
        link: LinkChoice = "open",
        l2: float = 1.0,
        *,
        degree: int = 1,
        reach: float = 5.0,
        steps: int = 100,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__(
            Settings(
                model="logistic",
                link=link,
                l2=l2,
                degree=degree,
                reach=reach,
                steps=steps,
                tolerance=tolerance,
            )
        )


class LinearRegression(Regression):
    """Linear regression with a penalty: the objective of scikit-learn's ``Ridge`` with ``alpha = l2``.

    Nobody sees sums of columns. Args: see ``Settings``.

    Raises:
        ParameterError: see ``Settings``.
    """

    def __init__(self, l2: float = 1.0, *, steps: int = 100, tolerance: float = 1e-6) -> None:
        super().__init__(Settings(model="linear", link="poly", l2=l2, steps=steps, tolerance=tolerance))
