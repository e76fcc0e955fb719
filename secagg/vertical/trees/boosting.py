"""``GradientBoosting``: training and prediction of all parties in one process, by the protocol of silos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from secagg.conversation import Side, Watch, together
from secagg.errors import ParameterError, UsageError
from secagg.names import RealVector, SiloId
from secagg.vertical.alignment import Alignment
from secagg.vertical.checkpoints import Checkpoints, InMemory
from secagg.vertical.report import Report
from secagg.vertical.trees.feature import FeatureOutcome, FeatureParty
from secagg.vertical.trees.label import LabelOutcome, LabelParty
from secagg.vertical.trees.model import Forest, Splits
from secagg.vertical.trees.reporting import describe
from secagg.vertical.trees.scoring import ScoreTerms, ScoringParty
from secagg.vertical.trees.settings import Loss, Settings, TreeTerms


class GradientBoosting:
    """Boosted trees over columns of 2 to 5 parties, of which one has labels.

    The trees are those that training in one place gives, number by number (``pooled.train_pooled``). Parties
    keep to the protocol (semi-honest). ``report()`` says who saw what.

    Args:
        trees, depth, learning_rate, bins, l2, min_child_rows, loss: see ``Settings``.

    Raises:
        ParameterError: a value out of its range.

    Guarantees:
        Structure, thresholds and weights are those of pooled training in the same fixed point.
        A training that is gone on with from any checkpoint ends as one that was not interrupted.
        A feature party sees no label, gradient or score, and nobody another's values or thresholds.
    """

    def __init__(
        self,
        *,
        trees: int = 100,
        depth: int = 4,
        learning_rate: float = 0.1,
        bins: int = 32,
        l2: float = 1.0,
        min_child_rows: int = 20,
        loss: Loss = "logistic",
    ) -> None:
        self.settings = Settings(
            trees=trees,
            depth=depth,
            learning_rate=learning_rate,
            bins=bins,
            l2=l2,
            min_child_rows=min_child_rows,
            loss=loss,
        )
        self._forest: Forest | None = None
        self._splits: Mapping[SiloId, Splits] = {}
        self._report: Report | None = None

    @classmethod
    def of(cls, forest: Forest, splits: Iterable[Splits]) -> GradientBoosting:
        """Return what parts of a model, which were kept, predict together. It has no report.

        Args:
            forest: the label party's part.
            splits: of every party.

        Raises:
            ParameterError: a part is missing, or is of another model.
        """
        model = cls(loss=forest.loss)
        model._forest, model._splits = forest, {part.party: part for part in splits}
        if set(model._splits) != set(forest.parties) or not all(map(forest.has, model._splits.values())):
            raise ParameterError("splits of every party are needed, all of the model of the trees")
        return model

    def fit(
        self,
        alignment: Alignment,
        *,
        checkpoints: Callable[[SiloId], Checkpoints] | None = None,
        watch: Watch | None = None,
    ) -> GradientBoosting:
        """Train, and return this.

        Args:
            alignment: of 2 to 5 parties, one with labels.
            checkpoints: party -> where it keeps how far it is; None for in memory.
            watch: told of every frame.

        Raises:
            InputRefused: labels that the loss does not take.
            ParameterError: no labels, too many parties, rows or trees.
        """
        label, where = alignment.label_party, checkpoints or (lambda _: InMemory())
        terms = TreeTerms(
            alignment=alignment.digest,
            parties=alignment.names,
            label_party=label,
            settings=self.settings,
        )
        sides: dict[SiloId, Side[LabelOutcome | FeatureOutcome]] = {}
        for name in alignment.names:
            columns = alignment.features(name)
            if name == label:
                sides[name] = LabelParty(name, columns, alignment.labels(), terms, where(name)).side()
            else:
                sides[name] = FeatureParty(name, columns, terms, where(name)).side()
        ended = together(sides, watch=watch)
        features = {name: end for name, end in ended.items() if isinstance(end, FeatureOutcome)}
        ours = ended[label]
        if not isinstance(ours, LabelOutcome):
            raise UsageError("the label party ended without trees")
        self._forest = ours.forest
        self._splits = {label: ours.splits} | {name: end.splits for name, end in features.items()}
        self._report = describe(terms, ours, features)
        return self

    def predict(
        self, alignment: Alignment, *, to: SiloId | None = None, watch: Watch | None = None
    ) -> RealVector:
        """Return a score for each record, in the order of the alignment, as the agreed party gets them.

        Args:
            alignment: of the parties trained on, with the same columns; no labels are needed.
            to: who gets the scores; None for the label party.
            watch: told of every frame.

        Returns:
            Probabilities of label 1 where the loss is logistic, float64, shape (count,).

        Raises:
            ParameterError: other parties or columns, or ``to`` is none of the parties.
            UsageError: nothing was trained.
        """
        forest = self.forest
        if alignment.names != forest.parties:
            raise ParameterError(f"the model is of {', '.join(forest.parties)}, in this order")
        terms = ScoreTerms(
            alignment=alignment.digest,
            model=forest.model,
            parties=forest.parties,
            label_party=forest.label_party,
            to=forest.label_party if to is None else to,
        )
        sides = {
            name: ScoringParty(
                name,
                alignment.features(name),
                self.splits(name),
                terms,
                forest=forest if name == forest.label_party else None,
            ).side()
            for name in forest.parties
        }
        scores = together(sides, watch=watch)[terms.to]
        if scores is None:
            raise UsageError("who was to get scores got none")
        return scores

    @property
    def forest(self) -> Forest:
        """The label party's part of the model.

        Raises:
            UsageError: nothing was trained.
        """
        if self._forest is None:
            raise UsageError("nothing was trained yet: call fit first")
        return self._forest

    def splits(self, party: SiloId) -> Splits:
        """Return one party's own splits.

        Raises:
            ParameterError: it is none of the parties.
            UsageError: nothing was trained.
        """
        if party not in self.forest.parties:
            raise ParameterError(f"{party} is none of the parties")
        return self._splits[party]

    def report(self) -> Report:
        """Return who saw what in training.

        Raises:
            UsageError: nothing was trained here.
        """
        if self._report is None:
            raise UsageError("nothing was trained here: call fit first")
        return self._report
