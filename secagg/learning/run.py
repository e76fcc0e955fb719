"""A run, round by round, whoever drives it: what a round asks for, and what its sum makes of the model.

In one process or as a service, a run is this class and a driver of rounds; so the same silos, seeds and
survivors give the same model, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Literal, TypeAlias, TypeVar

from secagg.encrypted.cipher import SEAL_SIZE, Adder
from secagg.errors import ParameterError, UsageError
from secagg.estimates import computing_seconds
from secagg.fixedpoint import Encoding
from secagg.keys.adders import adder_of
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.desk import KeyDesk
from secagg.learning.bounds import Bounds
from secagg.learning.history import Record
from secagg.learning.means import mean_of, worst_error_of
from secagg.learning.model import Base, Blocks, SealedBase
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import NextModel
from secagg.names import SiloId
from secagg.privacy.params import DistributedDP, PrivacyMode
from secagg.privacy.planning import plan_privacy
from secagg.privacy.spent import Spent
from secagg.roster import Roster
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.driver import RoundDriver, phases_of
from secagg.rounds.memory import Memory
from secagg.rounds.reporting import describe_round
from secagg.session import Aggregate, SealedSum
from secagg.terms import (
    DistributedNoise,
    PlainParameters,
    PrivacyParameters,
    SchemeParameters,
    Terms,
    scheme_tag,
)
from secagg.weighting import surely_below
from secagg.wire import MAX_LENGTH

B = TypeVar("B", bound=Base)

Kind: TypeAlias = Literal["train", "metrics"]

LOCAL = "local"
"""Federation and job of runs in one process, whose silos live no longer than the run."""


class Run(Generic[B]):
    """What is asked for, and how far it has come.

    Args:
        roster: the pinned roster.
        scheme: the protection and its cohort.
        key: under which sums are encrypted; None where they are not.
        plan: what every round trains with.
        bounds: from which the encodings are planned.
        privacy: the noise that is wanted; None for none.
        rounds: of training, at least 1; if there are metrics, one more sum measures the last model.
        model: the base of the next round.
        keep: puts the base that follows an opened sum, and the sum's record, where they belong.
        seal: the same where silos alone have the base; None where they never do.
        records: of the rounds before ``model``.
        federation, job: names; silos join an attempt of a job once, so no two runs share both.
        training_seconds, attempts: as ``RoundCoordinator`` takes them.
        phase_seconds: how long a phase of an attempt waits at the most, beside what silos compute in it.

    Raises:
        ParameterError: no encoding fits, or its sums cannot be added under the key, or silos could not send
            each other the model.
        MissingExtra: the package that the key needs is not installed.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        scheme: SchemeParameters,
        key: EstablishedKey | None = None,
        plan: TrainingPlan,
        bounds: Bounds,
        privacy: PrivacyMode | None = None,
        rounds: int,
        model: B,
        keep: Callable[[Blocks, Record], B],
        seal: Callable[[SealedBase, Record], B] | None = None,
        records: Sequence[Record] = (),
        federation: str = LOCAL,
        job: str = LOCAL,
        training_seconds: float = 3600.0,
        phase_seconds: float = 60.0,
        attempts: int = 3,
    ) -> None:
        self.roster = roster
        self.rounds = rounds
        self.model = model
        self._keep = keep
        self._seal = seal
        self._precision = bounds.precision
        self._scheme = scheme
        self._key = key
        self._plan = plan
        self._records = tuple(records)
        self._names = federation, job
        self._seconds = training_seconds, phase_seconds
        self._attempts = attempts
        self._memory = Memory()
        self._planned_weight = bounds.planned_weight
        training, self._noise = self._planned(bounds, privacy)
        self._schedule: list[tuple[Kind, Encoding]] = [("train", training)] * rounds
        if bounds.metrics:
            self._schedule.append(("metrics", bounds.measuring()))
        # Now, so that what cannot be added under the key is refused before anybody trains or encrypts.
        self._adders: dict[Encoding, Adder] = {}
        if key is not None:
            self._adders = {of: adder_of(key.document, of) for of in dict(self._schedule).values()}
            if self._sealed_base + SEAL_SIZE > MAX_LENGTH:
                raise ParameterError(
                    f"a model of {model.length:,} weights with its {type(plan.strategy).__name__} state is "
                    "longer than one silo can send another: take a smaller model, FedAvg, or masking"
                )

    def _planned(
        self, bounds: Bounds, privacy: PrivacyMode | None
    ) -> tuple[Encoding, PrivacyParameters | None]:
        """Return the encoding of a round of training, and its noise."""
        length = self.model.length
        if privacy is None:
            return bounds.training(length), None
        if bounds.metrics:
            raise ParameterError(
                "metrics would leave without noise beside an update with it, and void what is promised; take "
                "metrics=(), and measure the model on data of your own"
            )
        if self.rounds > privacy.target.rounds:
            raise ParameterError(
                f"{self.rounds} rounds are asked for, and the privacy target is for {privacy.target.rounds}: "
                "give Privacy(rounds=...) as many"
            )
        if isinstance(privacy, DistributedDP) and privacy.unit == "record":
            self._check_one_step()
        planned = plan_privacy(
            privacy,
            length=length,
            n=bounds.cohort,
            cohort=None if isinstance(self._scheme, PlainParameters) else self._scheme.cohort,
            epochs=self._plan.epochs,
            word_bits=bounds.word_bits,
        )
        return planned.encoding or bounds.training(length), planned.noise

    def _check_one_step(self) -> None:
        """Refuse what a round of one step would not do, and nobody would notice."""
        if self._plan.epochs != 1 or self._plan.learning_rate is not None or self._plan.strategy.proximal_mu:
            raise ParameterError(
                'with unit="record" a round is one step: epochs, learning_rate and FedProx mean nothing; the '
                "length of the step is server_learning_rate of the strategy"
            )

    @property
    def _sealed_base(self) -> int:
        """Bytes of a model and the state of its strategy, as one silo sends them to another."""
        return 8 * (1 + self._plan.strategy.slots) * self.model.length

    @property
    def noise(self) -> PrivacyParameters | None:
        """Of every round, as silos are told."""
        return self._noise

    @property
    def protected(self) -> bool:
        """Whether the coordinator cannot read what arrives."""
        return not isinstance(self._scheme, PlainParameters)

    @property
    def quorum(self) -> int:
        """Silos without which no sum can be opened."""
        return self._scheme.quorum

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases of the scheme, in order."""
        return phases_of(scheme_tag(self._scheme))

    @property
    def number(self) -> int:
        """The round that comes next, from 1; the sum of metrics alone is the last."""
        return len(self._records) + 1

    @property
    def finished(self) -> bool:
        """Whether every sum was opened."""
        return len(self._records) == len(self._schedule)

    @property
    def job(self) -> str:
        """Its name, as silos see it."""
        return self._names[1]

    @property
    def records(self) -> tuple[Record, ...]:
        """Of the sums that were opened."""
        return self._records

    def terms(self, release: int = 1) -> Terms:
        """Return the terms of the next round; ``release``: how often it was begun with noise of its own."""
        kind, encoding = self._schedule[len(self._records)]
        federation, job = self._names
        return Terms(
            federation=federation,
            job=job,
            round=self.number,
            kind=kind,
            release=release,
            roster=self.roster.digest,
            base=self.model.digest,
            scheme=self._scheme,
            encoding=encoding,
            training=self._plan.settings(),
            privacy=self._noise,
        )

    def next_round(self, memory: Memory | None = None) -> RoundCoordinator:
        """Return the next round, not yet opened.

        Args:
            memory: of a process that ended before this one; None for what this one knows of earlier rounds.
        """
        training_seconds, phase_seconds = self._seconds
        memory = self._memory if memory is None else memory
        terms = self.terms(memory.release)
        phase_seconds += computing_seconds(terms)  # Silos that encrypt or open say nothing meanwhile.
        # Where silos keep the model, only what a run begins with is the coordinator's to send.
        sent = None if self._key is not None and self.number > 1 else self.model.payload()
        return RoundCoordinator(
            self.roster,
            terms=terms,
            base=sent,
            sealed_base=0 if sent is not None else self._sealed_base,
            adder=self._adders.get(terms.encoding),
            desk=None if self._key is None else KeyDesk(self.roster, self._key, seconds=phase_seconds),
            seconds=phase_seconds,
            training_seconds=training_seconds,
            attempts=self._attempts,
            memory=memory,
        )

    def opened(self, driver: RoundDriver, outcome: Aggregate | SealedSum) -> Record:
        """Take the sum of the round that ``next_round`` gave: the model and the records move on.

        Args:
            driver: of the round.
            outcome: the sum, or that silos opened it.

        Raises:
            InputRefused: the step leaves float64's range; nothing changed.
            EnvironmentFault: the base or the record cannot be kept; nothing changed.
        """
        record = (
            self._sealed(driver, outcome) if isinstance(outcome, SealedSum) else self._read(driver, outcome)
        )
        self._memory = driver.coordinator.memory.next_round()
        self._records = (*self._records, record)
        return record

    def _read(self, driver: RoundDriver, aggregate: Aggregate) -> Record:
        terms = driver.coordinator.terms
        mean = mean_of(terms, aggregate)
        noised = isinstance(terms.privacy, DistributedNoise)  # Then nothing but the update was summed.
        weight = mean.weight if terms.kind == "train" else mean.evaluation_weight
        unmet = not noised and surely_below(terms.encoding, weight, self._planned_weight)
        report = describe_round(
            terms,
            aggregate.survivors,
            driver.coordinator,
            driver.traffic,
            worst_error=mean.worst_error,
            metric_error=mean.metric_error if mean.metrics else None,
            clipped_share=mean.clipped if terms.kind == "train" and not noised else None,
            saturated=mean.saturated if mean.metrics else None,
            total_weight=None if noised else weight,
            unmet_weight=self._planned_weight if unmet else None,
            spent=self._spent(terms, aggregate.survivors),
        )
        record = Record(terms.round - 1, mean.metrics, report)
        step = None if mean.update is None else NextModel(self.model, self._plan.strategy, mean.update)
        self.model = self._keep(step or self.model, record)
        return record

    def _spent(self, terms: Terms, survivors: tuple[SiloId, ...]) -> Spent | None:
        spent = self._records[-1].report.spent if self._records else None
        for _ in range(1, terms.release):  # It may have been opened, over as few silos as may be.
            spent = Spent.of(terms, self.quorum, spent)
        return Spent.of(terms, len(survivors), spent)

    def _sealed(self, driver: RoundDriver, outcome: SealedSum) -> Record:
        if self._seal is None:
            raise UsageError("the sum was opened at silos alone, and this run needs it here")
        terms = driver.coordinator.terms
        # What depends on the sum, silos know. The precision holds from the planned weight on.
        report = describe_round(
            terms,
            outcome.survivors,
            driver.coordinator,
            driver.traffic,
            worst_error=worst_error_of(terms, silos=len(outcome.survivors), planned=self._precision),
            spent=self._spent(terms, outcome.survivors),
        )
        record = Record(terms.round - 1, {}, report)
        following = terms.round + (terms.kind == "train")
        self.model = self._seal(SealedBase(following, self.model.length, outcome.base), record)
        return record
