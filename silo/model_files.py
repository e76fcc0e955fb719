"""The models of encrypted runs, which silos alone have: each a file, and a card of what was opened.

    state/model-<job>.safetensors      the model after the last sum that this silo opened, or that it was of
    state/model-<job>.card.json        what made it, and the metrics of every sum

The coordinator has neither, and no metric: what a scientist is to know, a silo's operator hands on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import structlog

from secagg.errors import EnvironmentFault, UsageError
from secagg.learning.model import GlobalModel
from secagg.learning.trainer import Trainer
from secagg.names import SiloId
from secagg.privacy.spent import Spent
from secagg.report import (
    NO_DIFFERENTIAL_PRIVACY,
    SchemeName,
    hanging,
    level_mark,
    plural,
    privacy_sentence,
    readers,
)
from secagg.rounds.reporting import scheme_name
from secagg.session import Aggregate
from secagg.terms import PlainParameters, Terms
from silo.initial import write_tensors, write_whole

CARD = ".card.json"

log = structlog.get_logger("silo")


class OpenedSum(msgspec.Struct, frozen=True):
    """One sum that this silo opened.

    Attributes:
        round: its number.
        kind: ``"train"``, or ``"metrics"``.
        survivors: whose vectors are in it.
        metrics: means over all examples of ``survivors``, of the model that the round began with.
    """

    round: int
    kind: str
    survivors: tuple[SiloId, ...]
    metrics: dict[str, float]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of a model.

    Attributes:
        federation, job: of the run.
        scheme: that protected it.
        file: its name, beside the card; ``sha256`` is of its bytes.
        digest: of the weights, hex, as every silo and the coordinator name the model.
        parameters: weights in it.
        who_can_read_one_update: in words.
        privacy: whether there is differential privacy, in words.
        spent: the releases behind that, so that it can be reckoned again.
        sums: one for each sum that this silo opened, in order.
    """

    card: int = 1
    federation: str
    job: str
    scheme: SchemeName
    file: str
    sha256: str
    digest: str
    parameters: int
    who_can_read_one_update: str
    privacy: str = NO_DIFFERENTIAL_PRIVACY
    spent: Spent | None = None
    sums: tuple[OpenedSum, ...]

    @property
    def rounds(self) -> int:
        """How many rounds of training are in the model."""
        # Metrics are of the model that the round began with, which may have come from a peer.
        return max((each.round - (each.kind == "metrics") for each in self.sums), default=0)


@dataclass(frozen=True)
class ModelFiles:
    """The models in one folder.

    Args:
        folder: the state folder.

    Guarantees:
        A file is there whole, or the one before it is.
        A round that is opened again leaves what it left the first time, at every silo the same tensors.
    """

    folder: Path

    def keep(
        self,
        terms: Terms,
        aggregate: Aggregate,
        trainer: Trainer,
        *,
        model: GlobalModel,
        metrics: dict[str, float],
    ) -> Path:
        """Write what came of an opened sum, and return the path of the model.

        Args:
            terms: of the round, under a scheme that encrypts.
            aggregate: that was opened.
            trainer: whose names the tensors get.
            model: that follows; after a sum of metrics the one that was measured, which this silo may have of
                a peer.
            metrics: that were opened.

        Raises:
            EnvironmentFault: a file cannot be written.
        """
        path = self.folder / f"model-{terms.job}.safetensors"
        written = write_tensors(path, trainer, model.weights.astype(np.float32))
        before = self._before(terms.job)
        sums = () if before is None else tuple(each for each in before.sums if each.round < terms.round)
        # A round that is opened again is in the card already.
        again = before is not None and bool(before.sums) and before.sums[-1].round >= terms.round
        held = None if before is None else before.spent
        spent = held if again else Spent.of(terms, len(aggregate.survivors), held)
        card = Card(
            federation=terms.federation,
            job=terms.job,
            scheme=scheme_name(terms.scheme),
            file=path.name,
            sha256=hashlib.sha256(written).hexdigest(),
            digest=model.digest.hex(),
            parameters=model.length,
            who_can_read_one_update=_readers(terms, len(aggregate.survivors)),
            privacy=privacy_sentence(spent),
            spent=spent,
            sums=(*sums, OpenedSum(terms.round, terms.kind, aggregate.survivors, metrics)),
        )
        content = msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"
        write_whole(self.folder / f"model-{card.job}{CARD}", content)
        return path

    def cards(self) -> tuple[Card, ...]:
        """Return the cards of all models, the oldest file first.

        Raises:
            EnvironmentFault: one cannot be read, or is damaged.
        """
        paths = sorted(self.folder.glob(f"model-*{CARD}"), key=lambda path: path.stat().st_mtime)
        return tuple(_read(path) for path in paths)

    def card(self, job: str) -> Card:
        """Return the card of one job.

        Raises:
            UsageError: there is none.
            EnvironmentFault: it cannot be read, or is damaged.
        """
        found = self._card(job)
        if found is None:
            known = ", ".join(card.job for card in self.cards()[-5:]) or "none yet"
            raise UsageError(f"this silo has no model of job {job}; the last ones are: {known}")
        return found

    def _before(self, job: str) -> Card | None:
        try:
            return self._card(job)
        except EnvironmentFault as fault:
            log.warning("a card is begun anew", why=str(fault))
            return None

    def _card(self, job: str) -> Card | None:
        path = self.folder / f"model-{job}{CARD}"
        return _read(path) if path.exists() else None


def describe(card: Card, folder: Path, *, width: int = 80) -> str:
    """Return a card as text: the file, the metrics of every sum, who could have read one update."""
    rounds = plural(card.rounds, "round")
    lines = [
        f"{level_mark(card.scheme)}{card.job}, {card.scheme}, {rounds}, {card.parameters:,} weights",
        f"  {folder / card.file}",
        f"  sha256 {card.sha256}",
        f"  digest {card.digest[:16]}, as the coordinator tells it",
        "",
    ]
    for each in card.sums:
        title = f"before round {each.round}" if each.kind == "train" else "the final model"
        values = "  ".join(f"{name} {value:.6g}" for name, value in each.metrics.items()) or "no metric"
        lines.append(f"  {title:<17}{plural(len(each.survivors), 'silo')}  {values}")
    lines.append("")
    for label, sentence in (("who reads", card.who_can_read_one_update), ("privacy", card.privacy)):
        lines += hanging(label, sentence, width=width)
    return "\n".join(lines)


def _readers(terms: Terms, survivors: int) -> str:
    if isinstance(terms.scheme, PlainParameters):
        raise UsageError("the model of a plain run is the coordinator's")
    c = terms.scheme.cohort.c
    return readers(scheme_name(terms.scheme), colluders=plural(c, "silo"), honest=f"at least {survivors - c}")


def _read(path: Path) -> Card:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Card)
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise EnvironmentFault(
            f"{path} is damaged ({error}): take it away, the model file does without it"
        ) from error
