"""Encrypted federated learning: real silo and coordinator sessions over real wire bytes, in one process.

    federation = Federation(silos={"north": trainer_a, "south": trainer_b, "west": trainer_c})
    history = federation.run(rounds=10)

Each silo evaluates the base model, trains once and uploads one protected vector; weights and metrics
travel only inside the sum. Every silo applies the strategy to the opened mean itself. Here is what a run is
asked for; ``job`` runs it. With a running coordinator in place of trainers, the same run happens there.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secagg.cohort import MIN_SILOS
from secagg.errors import ParameterError, SecaggError, SiloLeftOut, TrainerFailed
from secagg.estimates import check_memory
from secagg.explanation import explained
from secagg.fixedpoint import Encoding
from secagg.hazmat.identity import IdentityKey
from secagg.learning.bounds import Bounds
from secagg.learning.history import History
from secagg.learning.job import Job, View
from secagg.learning.model import GlobalModel
from secagg.learning.progress import Observer, Progress, Silent
from secagg.learning.remote import Remote, check_request, first_weights, run_remotely
from secagg.learning.request import RunRequest, asked_of, asked_privacy, strategy_pairs
from secagg.learning.run import Run
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import FedAvg, Strategy
from secagg.learning.trainer import Trainer
from secagg.learning.workload import LearningWorkload, missing_method
from secagg.local_keys import make_keys
from secagg.masking.params import Masking
from secagg.names import SiloId, WordBits
from secagg.privacy.params import DistributedDP, LocalDPSGD, PrivacyMode
from secagg.ranges import check_mapping, shown, whole
from secagg.roster import Roster
from secagg.scheme import Scheme
from secagg.simulation import Dropouts, check_dropouts
from secagg.sums import check_parties


@dataclass(eq=False, repr=False)
class Federation:
    """Silos that train one model together.

    Args:
        silos: name -> trainer, in roster order; at least 3 with ``Masking``. Or a running coordinator
            (``coordinator.client.Coordinator``), whose silos train with the code that they approved.
        scheme: the protection.
        strategy: how the mean update becomes the next model.
        clip: bound of one entry of an update (local - global); entries beyond it are clipped and their
            share is reported.
        weight_cap: the most examples that one silo may have; public.
        least_total_weight: total examples to be planned for at least; public.
        precision: worst error of an entry of the mean that the planner accepts.
        metric_bound: metrics are cut to -metric_bound to metric_bound, and those cut are counted.
        privacy: differential privacy; None for none. With it no metric is opened: an exact one beside the
            noise would void what is promised.
        metrics: which of the values that ``evaluate`` returns are opened, as means; None for all that one
            trainer returns when asked before the run; () for none, then nothing is evaluated.
        epochs: local passes a round.
        learning_rate: local step size; None for each trainer's own.
        initial: first global weights, shape (length,); None for a fresh ``initial(seed)`` of a trainer.
            For a coordinator it must be given, and may be the path of a safetensors file.
        seed: 0 to 2**63 - 1, makes initialisation and shuffling repeatable; None for a fresh one. Never
            used for secrets.
        word_bits: 32 or 64; None lets the planner choose, 32 wherever the precision allows.
        memory_limit: bytes that all parties of this process together may hold beside training; None for what
            the machine has. Silos of a coordinator are processes of their own: nothing is checked for them.
        app: import path of the training code, ``"package.module:function"``; for a coordinator only.
        name: of the run at a coordinator, for people.

    Attributes:
        history: of the last run, as far as it came: also after an error or Ctrl-C. None before the first.

    Raises:
        ParameterError: unsafe or contradictory parameters; nothing has run. ``run`` raises it for a model
            that would take more than ``memory_limit``, and names what fits.

    Guarantees:
        Masking and Plain give the same model, bit for bit, for the same seed and survivors.
        With a seed, two runs with the same survivors give the same model.
        No message carries a weight, a metric or a count of one silo, but under Plain.
    """

    silos: Mapping[SiloId, Trainer] | Remote
    _: KW_ONLY
    scheme: Scheme = field(default_factory=Masking)
    strategy: Strategy = field(default_factory=FedAvg)
    privacy: PrivacyMode | None = None
    clip: float = 8.0
    weight_cap: float = 100_000.0
    least_total_weight: float = 1_000.0
    precision: float = 1e-4
    metric_bound: float = 100.0
    metrics: Iterable[str] | None = None
    epochs: int = 1
    learning_rate: float | None = None
    initial: ArrayLike | str | PathLike[str] | None = None
    seed: int | None = None
    word_bits: WordBits | None = None
    memory_limit: int | None = None
    app: str | None = None
    name: str = "federation"
    history: History | None = field(init=False, default=None)

    @explained()
    def __post_init__(self) -> None:
        if not isinstance(self.silos, Remote):
            self._check_trainers()
        if self.memory_limit is not None:
            self.memory_limit = whole("memory_limit", self.memory_limit, least=1)
        if isinstance(self.metrics, str):
            raise ParameterError(f"metrics is one text; give a list of names: metrics=[{self.metrics!r}]")
        if self.metrics is not None:
            if not isinstance(self.metrics, Iterable):
                raise ParameterError(f"metrics is {shown(self.metrics)}, must be a list of names")
            self.metrics = tuple(self.metrics)
            if not all(isinstance(name, str) for name in self.metrics):
                raise ParameterError("metrics has an entry that is no text, must be a list of names")
        if self.privacy is not None:
            self._check_privacy(self.privacy)
        if isinstance(self.silos, Remote):
            check_request(self.app, self.name, self.initial, self.metrics)
            if self.memory_limit is not None:
                raise ParameterError(
                    "memory_limit is for silos in this process; coordinator.toml and silo.toml have their own"
                )
        # Neither depends on the length of the model, which is not known yet.
        self._plan(1, 0 if self.seed is None else self.seed)
        self._bounds(self.metrics or ()).training(1)

    def _check_privacy(self, mode: PrivacyMode) -> None:
        if not isinstance(mode, LocalDPSGD | DistributedDP):
            raise ParameterError(f"privacy is {shown(mode)}, must be LocalDPSGD(...) or DistributedDP(...)")
        if self.metrics:
            raise ParameterError(
                "metrics would leave without noise and void what privacy promises; leave them out, and "
                "measure the model on data of your own"
            )
        self.metrics = ()

    def _check_trainers(self) -> None:
        check_parties("silos", self._trainers, self.scheme)
        self.silos = dict(self._trainers)
        for silo, trainer in self.silos.items():
            if isinstance(trainer, type):  # It has the methods, and nobody to call them on.
                raise ParameterError(f"{silo}: {shown(trainer)} is no trainer; one of its instances is")
            if not isinstance(trainer, Trainer):
                raise ParameterError(f"{silo}: {type(trainer).__name__} has no train() and evaluate()")
        if self.app is not None:
            raise ParameterError("app is for silos of a coordinator; these have trainers")

    @property
    def _trainers(self) -> Mapping[SiloId, Trainer]:
        return cast("Mapping[SiloId, Trainer]", self.silos)

    def run(
        self,
        rounds: int,
        *,
        dropouts: Mapping[int, Dropouts] | None = None,
        progress: bool | Observer = True,
        view: View | None = None,
    ) -> History:
        """Train for ``rounds`` rounds from the first weights and measure the final model.

        Args:
            rounds: at least 1.
            dropouts: round -> silo -> phase in which it is lost; it is back in the next round. Round
                ``rounds + 1`` is the final metrics-only sum.
            progress: True shows a live table; an ``Observer`` is told instead; False shows nothing.
            view: told all that the coordinator sees.

        Returns:
            The model, its metrics after every round, and a report for every opened sum.

        Raises:
            TooFewSilos: a round lost more silos than the threshold allows. No average was formed.
            InputRefused, TrainerFailed: as the cause of TooFewSilos, where a trainer was the reason.
            ParameterError: no encoding fits, or no trainer can make a first model.
            PolicyRefused: of a coordinator's silos too many refused by policy; the rule alone is told.
            EnvironmentFault, TrustError: the coordinator cannot be reached, or not trusted.

        A run at a coordinator depends on nobody who watches: Ctrl-C ends the watching alone.

        Every error carries a note with its code, what is safe and what to do. A ``SiloLeftOut`` warning
        tells, once for each silo and reason, that a round went on without a silo.
        """
        self.history = None
        with explained():
            rounds = whole("rounds", rounds, least=1)
            dropouts = {} if dropouts is None else dropouts
            check_mapping("dropouts", dropouts, "round -> silo name -> phase")
            if isinstance(self.silos, Remote) and (dropouts or view is not None):
                raise ParameterError(
                    "dropouts and view are for silos in this process; these are real ones of a coordinator"
                )
            if view is not None and (isinstance(view, type) or not isinstance(view, View)):
                raise ParameterError(f"view is {shown(view)}, must have the methods received() and opened()")
            for number, lost in dropouts.items():
                if not 1 <= whole("a round of dropouts", number) <= rounds + 1:
                    raise ParameterError(f"dropouts names round {number}; there are rounds 1 to {rounds + 1}")
                check_dropouts(lost, self._trainers)
            if not isinstance(progress, bool | AbstractContextManager):
                raise ParameterError(f"progress is {shown(progress)}, must be True, False or an Observer")
            observer = Progress() if progress is True else Silent() if progress is False else progress
            if isinstance(self.silos, Remote):
                return self._run_remotely(self.silos, rounds, observer=observer, talk=progress is True)
            run, job = self._prepare(rounds)
            self.history = History(run.model.weights, ())
            with observer:
                observer.run_started(run.roster.silos, run.phases, rounds=rounds)
                while not run.finished:
                    job.round(dropouts.get(run.number, {}), observer=observer, view=view)
                    self.history = History(run.model.weights, run.records)
                    for text, error in job.left_out():
                        warnings.warn(SiloLeftOut(text, error), stacklevel=2)
        return self.history

    def __repr__(self) -> str:
        silos = repr(self.silos) if isinstance(self.silos, Remote) else ", ".join(self.silos)
        return f"Federation({silos}; {self.scheme!r}, {self.strategy!r})"

    # --- at a coordinator ----------------------------------------------------------------------------------

    def _run_remotely(self, remote: Remote, rounds: int, *, observer: Observer, talk: bool) -> History:
        weights, layout = first_weights(remote, self.initial)
        request = RunRequest(
            name=self.name,
            rounds=rounds,
            app=self.app or "",
            scheme=asked_of(self.scheme),
            strategy=strategy_pairs(self.strategy),
            clip=float(self.clip),
            weight_cap=float(self.weight_cap),
            least_total_weight=float(self.least_total_weight),
            precision=float(self.precision),
            metric_bound=float(self.metric_bound),
            metrics=tuple(self.metrics or ()),
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=self._fresh_seed(),
            word_bits=self.word_bits,
            layout=layout,
            privacy=None if self.privacy is None else asked_privacy(self.privacy),
        )
        outcome, self.history = run_remotely(remote, request, weights, observer=observer, talk=talk)
        if outcome.error is not None:
            raise outcome.error
        if outcome.state == "degraded":
            warnings.warn(SiloLeftOut(outcome.text), stacklevel=3)
        return self.history

    def _fresh_seed(self) -> int:
        return int.from_bytes(os.urandom(7), "big") if self.seed is None else self.seed

    # --- before the first round ----------------------------------------------------------------------------

    @explained(started=False)
    def _prepare(self, rounds: int) -> tuple[Run[GlobalModel], Job]:
        seed = self._fresh_seed()
        workloads = {silo: LearningWorkload(silo, trainer) for silo, trainer in self._trainers.items()}
        model = self.strategy.start(self._first_weights(workloads, seed))
        identities = {silo: IdentityKey.generate() for silo in workloads}
        roster = Roster.of({silo: identity.public for silo, identity in identities.items()})
        bounds = self._bounds(self._metric_names(workloads, model))
        if self.privacy is None:  # Before keys are made, which takes a while.
            self._check_memory(bounds.training(model.length))
        local = make_keys(self.scheme, roster, identities)
        run = Run(
            roster,
            scheme=local.parameters,
            key=local.key,
            plan=self._plan(model.length, seed),
            bounds=bounds,
            privacy=self.privacy,
            rounds=rounds,
            model=model,
            keep=lambda base, _record: GlobalModel.gathered(base),
        )
        if self.privacy is not None:  # Noise may need longer words.
            self._check_memory(run.terms().encoding)
        for silo, trainer in self._trainers.items():
            lacking = missing_method(trainer, run.noise)
            if lacking is not None:
                raise ParameterError(f"{silo}: {lacking}")
        return run, Job(workloads, identities, run, local)

    def _check_memory(self, encoding: Encoding) -> None:
        check_memory(
            self.scheme,
            encoding.length,
            len(self._trainers),
            self.memory_limit,
            word_bits=encoding.word_bits,
        )

    def _first_weights(self, workloads: Mapping[SiloId, LearningWorkload], seed: int) -> NDArray[Any]:
        if self.initial is not None:
            try:
                return np.asarray(cast("ArrayLike", self.initial))
            except (TypeError, ValueError, RuntimeError):  # Rows of different lengths, for example.
                raise ParameterError("initial cannot be read as a vector of weights") from None
        for workload in workloads.values():
            if workload.initialises:
                return workload.initial(seed)
        raise ParameterError("no trainer has initial(seed); give Federation(initial=weights)")

    def _metric_names(
        self, workloads: Mapping[SiloId, LearningWorkload], model: GlobalModel
    ) -> tuple[str, ...]:
        if self.metrics is not None:
            return tuple(self.metrics)
        failures: list[SecaggError] = []
        for workload in workloads.values():
            try:
                return tuple(workload.evaluate(model.weights).metrics)
            except TrainerFailed as failure:
                failures.append(failure)
        raise failures[0]

    def _plan(self, length: int, seed: int) -> TrainingPlan:
        return TrainingPlan(
            strategy=self.strategy,
            length=length,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=seed,
        )

    def _bounds(self, metrics: tuple[str, ...]) -> Bounds:
        return Bounds(
            cohort=MIN_SILOS if isinstance(self.silos, Remote) else len(self._trainers),
            metrics=metrics,
            clip=self.clip,
            weight_cap=self.weight_cap,
            least_total_weight=self.least_total_weight,
            precision=self.precision,
            metric_bound=self.metric_bound,
            word_bits=self.word_bits,
        )
