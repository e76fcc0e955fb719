"""A federation with noise for tests: real silos with ledgers, over wire bytes, and all that they keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from secagg.learning.model import GlobalModel
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import FedAvg
from secagg.learning.trainer import Evaluation, TrainingSettings, Update
from secagg.learning.workload import LearningWorkload
from secagg.masking.params import Masking
from secagg.names import IntegerVector, RandomSource, RealVector, SiloId
from secagg.policy import Policy
from secagg.privacy.calibration import Privacy
from secagg.privacy.ledger import Budget, Ledger
from secagg.privacy.noising import StepNoise
from secagg.privacy.params import DistributedDP, PrivacyMode
from secagg.privacy.planning import plan_privacy
from secagg.privacy.sampling import PoissonSampler
from secagg.records import SiloRecord
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.memory import Memory
from secagg.rounds.silo import Participant
from secagg.scheme import Scheme
from secagg.session import Aggregate
from secagg.simulation import Dropouts, SimulatedSilo, run_round
from secagg.sums import policy_for
from secagg.terms import LocalNoise, PlainParameters, Terms, training_digest
from secagg.weighting import plan_mean
from tests.federations import keys_of, roster_of, seeded

TARGET = Privacy(epsilon=2.0, delta=1e-5, rounds=1)


class Mover:
    """A trainer that moves each weight by a fixed amount; its gradient is the opposite, a record's each.

    Args:
        moved: shape (length,).
        draws: how often it asks the sampler for rows.
        records: it has; each in the sample adds ``-moved`` to the sum of gradients.
    """

    def __init__(self, moved: RealVector, *, draws: int = 1, records: int = 1) -> None:
        self.moved = moved
        self.draws = draws
        self.records = records
        self.evaluated = 0

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        return Update(weights + self.moved, 10)

    def evaluate(self, weights: RealVector) -> Evaluation:
        self.evaluated += 1
        return Evaluation({"loss": 1.0}, 10)

    def initial(self, seed: int) -> NDArray[Any]:
        return np.zeros(self.moved.size)

    def gradient_sum(
        self, weights: RealVector, settings: TrainingSettings, *, sampler: PoissonSampler, l2_clip_norm: float
    ) -> RealVector:
        rows = [sampler.draw(self.records).size for _ in range(self.draws)]
        return -self._clipped(l2_clip_norm) * (rows[-1] if rows else self.records)

    def train_privately(
        self,
        weights: RealVector,
        settings: TrainingSettings,
        *,
        noise: LocalNoise,
        sampler: PoissonSampler,
        random: RandomSource,
    ) -> Update:
        local, clipped = np.array(weights), self._clipped(noise.l2_clip_norm)
        for _ in range(noise.steps if self.draws == 1 else self.draws):
            total = -clipped * sampler.draw(self.records).size
            local -= StepNoise(noise, total.size, random=random).add(total) / (
                noise.sampling_rate * self.records
            )
        return Update(local, 10)

    def _clipped(self, norm: float) -> RealVector:
        return self.moved / max(1.0, float(np.linalg.norm(self.moved)) / norm)


class Noised:
    """Silos of one roster around one set of terms.

    Args:
        updates: one for each silo, shape (length,).
        mode: what is wanted.
        scheme: the protection.
        epsilon: budget of each silo in its ledger; None for no bound.
        policy: of all silos; None for what the scheme needs.
        seed: of all randomness, so that two federations draw the same noise.
        trainers: in place of those that move by ``updates``.
        changes: fields of the terms.

    Attributes:
        caches: silo -> digest of terms -> the vector that it uploads.
    """

    def __init__(
        self,
        updates: Iterable[RealVector],
        mode: PrivacyMode | None = None,
        *,
        scheme: Scheme | None = None,
        epsilon: float | None = None,
        policy: Policy | None = None,
        seed: int = 0,
        trainers: Iterable[Any] | None = None,
        **changes: Any,
    ) -> None:
        updates = list(updates)
        n, length = len(updates), updates[0].size
        self.mode = DistributedDP(TARGET) if mode is None else mode
        self.roster, self.identities = roster_of(n, seed)
        self.keys = keys_of(Masking() if scheme is None else scheme, n)
        parameters = self.keys.parameters
        self.cohort = None if isinstance(parameters, PlainParameters) else parameters.cohort
        planned = plan_privacy(self.mode, length=length, n=n, cohort=self.cohort, epochs=1)
        model = FedAvg().start(np.zeros(length))
        self.base: GlobalModel = model
        fields: dict[str, Any] = {
            "federation": "tests",
            "job": "job",
            "round": 1,
            "kind": "train",
            "release": 1,
            "roster": self.roster.digest,
            "base": model.digest,
            "scheme": parameters,
            "encoding": planned.encoding
            or plan_mean(length, cohort=n, clip=8.0, weight_cap=100.0, least_total_weight=10.0),
            "training": TrainingPlan(strategy=FedAvg(), length=length).settings(),
            "privacy": planned.noise,
        }
        self.terms = Terms(**(fields | changes))
        self.policy = policy_for(parameters) if policy is None else policy
        given = [Mover(update) for update in updates] if trainers is None else list(trainers)
        self.trainers: Mapping[SiloId, Any] = dict(zip(self.roster.silos, given, strict=True))
        self.random = {silo: seeded(seed, slot, 5) for slot, silo in enumerate(self.roster.silos)}
        self.keyed = {silo: seeded(seed, slot, 6) for slot, silo in enumerate(self.roster.silos)}
        self.ledgers = {silo: ledger(epsilon) for silo in self.roster.silos}
        self.caches: dict[SiloId, dict[bytes, IntegerVector]] = {silo: {} for silo in self.roster.silos}
        self.workloads = {
            silo: LearningWorkload(silo, trainer, random=self.random[silo])
            for silo, trainer in self.trainers.items()
        }
        self.silos = {silo: SimulatedSilo(self._builder(silo)) for silo in self.roster.silos}
        self.sent: list[tuple[SiloId, str]] = []

    def _builder(self, silo: SiloId) -> Callable[[Iterable[SiloRecord]], Participant]:
        def build(records: Iterable[SiloRecord]) -> Participant:
            return Participant(
                silo,
                identity=self.identities[silo],
                roster=self.roster,
                policy=self.policy,
                workload=self.workloads[silo],
                keys=self.keys.keys.get(silo),
                ledger=self.ledgers[silo],
                records=records,
                cache=self.caches[silo],
                random=self.keyed[silo],
                threads=1,
            )

        return build

    def run(
        self, dropouts: Dropouts | None = None, *, memory: Memory | None = None, **changes: Any
    ) -> Aggregate:
        """Run the round of the terms, with ``changes``, to its end."""
        self.terms = msgspec.structs.replace(self.terms, **changes)
        adders = self.keys.adders
        self.coordinator = RoundCoordinator(
            self.roster,
            terms=self.terms,
            base=self.base.payload(),
            adder=None if adders is None else adders(self.terms.encoding),
            memory=memory,
            threads=1,
        )
        return run_round(
            self.coordinator,
            self.silos,
            dropouts=dropouts,
            tap=lambda silo, message: self.sent.append((silo, type(message).__name__)),
        )[0]

    def vector(self, silo: SiloId) -> IntegerVector:
        """Return what ``silo`` adds to the sum of the terms."""
        return self.caches[silo][training_digest(self.terms)]

    def signed(self, vector: IntegerVector) -> NDArray[np.int64]:
        """Return words as the integers that they stand for."""
        return vector.view(np.int32 if vector.itemsize == 4 else np.int64).astype(np.int64)


def ledger(epsilon: float | None = None) -> Ledger:
    return Ledger(
        "default",
        genesis=bytes(32),
        budget=None if epsilon is None else Budget(epsilon=epsilon, delta=1e-5),
        keep=lambda _line, _chain: None,
        clock=lambda: 0,
    )


def source(*key: int) -> RandomSource:
    """Return seeded randomness for noise."""
    return seeded(*key)
