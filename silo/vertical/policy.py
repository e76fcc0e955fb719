"""``[vertical]`` of ``silo.toml``: how much a vertical job may have this silo show, whoever wrote its file.

What is not given is the default of the job file: a job protects as much as that or more, or it is refused.
So the open link of logistic regression is asked for in the job file, and allowed here by every silo.
Every floor holds at every party, whomever it protects most. Jobs are looked at one by one: how many of them
a silo takes part in is its operator's to decide.
"""

from __future__ import annotations

import json
from typing import Annotated

from secagg.errors import MissingExtra

try:
    from pydantic import Field
except ModuleNotFoundError as missing:
    raise MissingExtra("silo", "pydantic") from missing

from secagg.errors import PolicyRefused
from secagg.names import SiloId
from secagg.operator_tables import Table
from secagg.vertical.linear.terms import LinkChoice
from secagg.vertical.linear.terms import Settings as RegressionSettings
from secagg.vertical.split.settings import SplitSettings
from secagg.vertical.trees.settings import Settings as TreeSettings
from silo.vertical.job_file import LEARNING, Learning, Name, VerticalJob


class VerticalPolicy(Table):
    """The table. ``min_`` and ``max_`` stand before the names of keys of the job file.

    Keys that are not here protect nothing, or less than they seem to. Noise is measured over the clip: with a
    longer clip there is more of it, and one release tells no more of a row. What ``trees`` and ``depth`` come
    near to, sooner or later, is the order of rows by bins: ``max_bins`` bounds that, and who must not show an
    order leaves trees out of ``learning``. Steps of a hidden link show nothing of a row.

    Attributes:
        learning: ways of learning that this silo takes part in.
        links: of logistic regression; ``"open"`` shows the label party sums of each row's columns, one for
            every step but one.
        max_steps: with an open link, where ``links`` has it. As many steps as a party has columns show all
            of them, up to a linear map; the default protects nobody who has fewer than 100 columns.
        min_child_rows: of trees; no histogram of fewer rows leaves.
        max_bins: of trees; the label party learns in which bin of a column a row is, and no more.
        min_label_flip: of a split network; it alone bounds what gradients tell of a label.
        max_rounds: of a split network; the noise of so many embeddings of one record can be averaged.
        min_embedding_noise: of a split network; in what feature parties send, also in a prediction.
        min_gradient_noise: of a split network; hides turned labels, and other parties' embeddings.
        scores_to: silos that may learn scores where another has the labels. Such a silo is also given what
            was trained on true labels: trees, or the top of a network. The label party may always learn
            scores; whether this silo itself may is for the others to say.
    """

    learning: Annotated[frozenset[Learning], Field(strict=False)] = frozenset(LEARNING)
    links: Annotated[frozenset[LinkChoice], Field(strict=False)] = frozenset({"poly"})
    max_steps: int = Field(default=RegressionSettings.steps, ge=1)
    min_child_rows: int = Field(default=TreeSettings.min_child_rows, ge=1)
    max_bins: int = Field(default=TreeSettings.bins, ge=2)
    min_label_flip: float = Field(default=SplitSettings.label_flip, ge=0, lt=0.5)
    max_rounds: int = Field(default=SplitSettings.rounds, ge=1)
    min_embedding_noise: float = Field(default=SplitSettings.embedding_noise, ge=0, allow_inf_nan=False)
    min_gradient_noise: float = Field(default=SplitSettings.gradient_noise, ge=0, allow_inf_nan=False)
    scores_to: Annotated[frozenset[Name], Field(strict=False)] = frozenset()

    def check(self, job: VerticalJob, silo: SiloId) -> None:
        """Refuse a job that would have ``silo``, whose policy this is, show more than it lets.

        Raises:
            PolicyRefused: the rule is a key of this table; the text has both keys and values.

        Guarantees:
            Where this table says nothing, a job passes that leaves to defaults how it learns and who is told.
        """
        if job.learning not in self.learning:
            raise _refused("learning", f"[{job.learning}]", sorted(self.learning))
        if (logistic := job.logistic) is not None:
            if logistic.link not in self.links:
                raise _refused("links", _said("[logistic] link", logistic.link), sorted(self.links))
            if logistic.link == "open":
                self._at_most("max_steps", "[logistic] steps", logistic.steps)
        if (trees := job.trees) is not None:
            self._at_least("min_child_rows", "[trees] min_child_rows", trees.min_child_rows)
            self._at_most("max_bins", "[trees] bins", trees.bins)
        if (split := job.split) is not None:
            self._at_least("min_label_flip", "[split] label_flip", split.label_flip)
            self._at_most("max_rounds", "[split] rounds", split.rounds)
            self._at_least("min_embedding_noise", "[split] embedding_noise", split.embedding_noise)
            self._at_least("min_gradient_noise", "[split] gradient_noise", split.gradient_noise)
        if job.scores_to not in {job.label_party, silo, *self.scores_to}:
            raise _refused("scores_to", _said("[prediction] to", job.scores_to), sorted(self.scores_to))

    def _at_least(self, rule: str, key: str, asked: float) -> None:
        least: float = getattr(self, rule)
        if asked < least:
            raise _refused(rule, _said(key, asked), least)

    def _at_most(self, rule: str, key: str, asked: float) -> None:
        most: float = getattr(self, rule)
        if asked > most:
            raise _refused(rule, _said(key, asked), most)


def _said(key: str, value: float | str | list[str]) -> str:
    return f"{key} = {json.dumps(value)}"  # As it stands in the file.


def _refused(rule: str, asked: str, here: float | list[str]) -> PolicyRefused:
    return PolicyRefused(
        rule,
        f"the job file has {asked}, and [vertical] of silo.toml has {_said(rule, here)}; change the one at "
        "every party, or the other here if this silo may show that",
    )
