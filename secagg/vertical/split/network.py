"""``SplitNetwork``: all parties of a split network in this process, by the protocol that silos run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from secagg.conversation import Side, Watch, together
from secagg.errors import ParameterError, ProtocolError, UsageError
from secagg.explanation import explained
from secagg.names import RandomSource, RealVector, SiloId
from secagg.vertical.alignment import Alignment
from secagg.vertical.checkpoints import Checkpoints, InMemory
from secagg.vertical.report import Report
from secagg.vertical.split.parts import SplitPart
from secagg.vertical.split.ports import Networks
from secagg.vertical.split.prediction import prediction_side
from secagg.vertical.split.saw import split_report
from secagg.vertical.split.settings import PredictionTerms, SplitSettings, SplitTerms
from secagg.vertical.split.training import feature_side, label_side


class SplitNetwork:
    """A neural network over columns of 2 to 5 parties, for two classes.

    Args:
        networks: builds the parties' networks: ``silo.TorchNetworks()``.
        settings: how it is trained; ``SplitSettings()`` if None.

    Raises:
        ParameterError: no networks are given.
    """

    @explained()
    def __init__(self, networks: Networks, settings: SplitSettings | None = None) -> None:
        if not callable(getattr(networks, "bottom", None)) or not callable(getattr(networks, "top", None)):
            raise ParameterError("networks builds bottoms and tops: give silo.TorchNetworks(), or your own")
        self._networks = networks
        self._settings = SplitSettings() if settings is None else settings
        self._parts: dict[SiloId, SplitPart] = {}
        self._predictions: list[PredictionTerms] = []

    @explained()
    def fit(
        self,
        alignment: Alignment,
        *,
        checkpoints: Mapping[SiloId, Checkpoints] = MappingProxyType({}),
        random: RandomSource = os.urandom,
        watch: Watch | None = None,
    ) -> SplitNetwork:
        """Train; return this object.

        Args:
            alignment: of 2 to 5 parties, one of which has labels, each 0 or 1.
            checkpoints: party -> where it keeps how far it is; in memory where none is given.
            random: 32 bytes of it are a party's secret, from which weights, noise and turned labels follow.
            watch: told of every frame.

        Raises:
            InputRefused: a label is neither 0 nor 1, all are the same, or training ran away.
            MissingExtra: safetensors is not installed.
            ParameterError: no party has labels, or there are too many parties or too few records.
            EnvironmentFault: a checkpoint is of another training.
        """
        terms = SplitTerms(
            alignment=alignment.digest,
            count=alignment.count,
            parties=alignment.names,
            label_party=alignment.label_party,
            settings=self._settings,
        )

        def side(name: SiloId) -> Side[SplitPart]:
            columns, kept = alignment.features(name), checkpoints.get(name, InMemory())
            networks = self._networks
            if name == terms.label_party:
                labels = alignment.labels()
                return label_side(terms, columns, labels, networks=networks, checkpoints=kept, random=random)
            return feature_side(terms, name, columns, networks=networks, checkpoints=kept, random=random)

        self._parts = together({name: side(name) for name in terms.parties}, watch=watch)
        self._predictions = []
        return self

    @explained()
    def predict(
        self, alignment: Alignment, *, to: SiloId | None = None, watch: Watch | None = None
    ) -> RealVector:
        """Score the records of an alignment.

        Args:
            alignment: of the parties that trained.
            to: who is to get the scores; the label party if None.
            watch: told of every frame.

        Returns:
            Probabilities of label 1, float64, shape (count,), in the order of the alignment, as ``to`` gets
            them and nobody else does.

        Raises:
            InputRefused: a party has other columns than it trained on.
            ParameterError: other parties, or nobody of that name.
            UsageError: nothing is trained yet.
        """
        training = self.terms
        if set(alignment.names) != set(training.parties):
            raise ParameterError(f"this network was trained by {', '.join(training.parties)}; align these")
        terms = PredictionTerms(
            training=training,
            alignment=alignment.digest,
            count=alignment.count,
            to=training.label_party if to is None else to,
        )
        sides = {
            name: prediction_side(
                terms, name, self._parts[name], alignment.features(name), networks=self._networks
            )
            for name in training.parties
        }
        scores = together(sides, watch=watch)[terms.to]
        if scores is None:
            raise ProtocolError("the party that is to get the scores ended without them")
        self._predictions.append(terms)
        return scores

    @property
    def terms(self) -> SplitTerms:
        """What the parties agreed on.

        Raises:
            UsageError: nothing is trained yet.
        """
        if not self._parts:
            raise UsageError("nothing is trained yet: call fit(alignment)")
        return next(iter(self._parts.values())).terms

    @property
    def parts(self) -> Mapping[SiloId, bytes]:
        """Party -> its part, as safetensors; ``SplitPart.from_bytes`` reads it. Each is its party's secret.

        Raises:
            UsageError: nothing is trained yet.
        """
        _ = self.terms
        return {name: part.to_bytes() for name, part in self._parts.items()}

    def report(self) -> Report:
        """Return who saw what, in training and in the predictions since.

        Raises:
            UsageError: nothing is trained yet.
        """
        return split_report(self.terms, self._predictions)
