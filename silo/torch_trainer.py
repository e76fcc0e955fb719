"""Train a torch model at one silo: ``TorchTrainer(model, loader)``.

What it is: ``secagg.learning.trainer.Trainer`` over a torch model. It loads the global vector, runs
``epochs`` passes with a fresh optimiser, and hands the trained vector back. With Opacus installed it also
trains with differential privacy (``dp_training``).

What it does not do:

- It sends nothing and protects nothing; that is the scheme's work.
- It keeps no optimiser state from round to round: momenta belong to one round's starting point.
- Integer buffers (batch-norm's ``num_batches_tracked``) stay with the silo; floating-point buffers
  (running mean and variance) are part of the vector and are averaged. See ``silo.manifest``.
- It reads no pickle: files are safetensors.

Reproducibility: same vector, settings and data give bit-identical weights on the CPU of one machine.
The process-wide torch generators are seeded for the duration of a call and put back afterwards, so
dropout layers and loaders that use them repeat; do not run two trainers of one process in two threads
if that matters. A ``DataLoader`` handed in with a generator, a sampler or worker processes of its own
keeps its own order, which this class cannot control; a dataset or a pair of tensors is shuffled here.

Source: McMahan et al. 2017 (local SGD); Li et al. 2020 "Federated Optimization in Heterogeneous
Networks", equation 2 (the proximal term).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from secagg.errors import EnvironmentFault, ParameterError, UsageError
from secagg.explanation import explained
from secagg.learning.trainer import Evaluation, TrainingSettings, Update
from secagg.names import RandomSource, RealVector
from secagg.privacy.sampling import PoissonSampler
from secagg.ranges import check_callable, positive, shown, whole
from secagg.terms import LocalNoise
from silo.manifest import Manifest
from silo.torch_data import Data, Records, as_data, in_batches, pair

if TYPE_CHECKING:
    from silo.record_gradients import RecordGradients

Loss: TypeAlias = Callable[[Any, Tensor], Tensor]
"""(outputs, targets) -> scalar tensor, the mean over the batch."""

Metrics: TypeAlias = Callable[[Tensor, Tensor], Mapping[str, float]]
"""(outputs, targets) of the whole evaluation data, on the CPU -> name -> value."""

Optimizer: TypeAlias = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
"""(parameters, learning rate) -> optimiser; the classes of ``torch.optim`` have this form."""


def accuracy(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return ``{"accuracy": share of right answers}``.

    Args:
        outputs: class scores, shape (n, classes, ...).
        targets: class numbers, shape (n, ...).
    """
    return {"accuracy": (outputs.argmax(dim=1) == targets).double().mean().item()}


class TorchTrainer:
    """Local training and evaluation of a torch model.

    Args:
        model: the model; copied, so several silos of one process may be given the same object.
        data: training examples: a ``DataLoader``, a ``Dataset`` or a tuple of two tensors. A loader or
            dataset gives pairs (inputs, targets).
        validation: held-out examples in the same forms. Without them ``evaluate`` measures the
            **training** data, which flatters the model.
        loss: mean loss of a batch; cross entropy over class scores if not given.
        metrics: computed once over the outputs of the whole evaluation data, so that a Dice score or a
            rank statistic is right and not a mean of batch means. Accuracy if neither ``metrics`` nor
            ``loss`` is given, otherwise nothing beside the loss.
        optimizer: class of ``torch.optim`` or a function (parameters, learning rate) -> optimiser.
        learning_rate: step size > 0, for rounds whose settings name none.
        batch_size: examples a step, at least 1; a ``DataLoader`` keeps its own.
        device: ``"auto"`` (CUDA where there is one, otherwise the CPU) or a torch device.

    Raises:
        ParameterError: a value above is of another type or out of range, the data is empty or of no known
            form, or the model has no floating-point parameter.
        EnvironmentFault: the device is not there.

    Guarantees:
        - The model handed in is never changed, and two trainers made from it never touch each other.
        - Same vector, settings and data: bit-identical weights on a CPU.
        - Proximal training adds exactly ``mu * (w - w_global)`` to every parameter's gradient and
          nothing to a buffer.
        - torch's own random state is the same after a call as before.
    """

    @explained()
    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        validation: Data | None = None,
        loss: Loss | None = None,
        metrics: Metrics | None = None,
        optimizer: Optimizer = torch.optim.Adam,
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        device: str | torch.device = "auto",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ParameterError(f"model is {shown(model)}, must be an instance of torch.nn.Module")
        _check_functions(loss, metrics, optimizer)
        learning_rate = positive("learning_rate", learning_rate)
        batch_size = whole("batch_size", batch_size, least=1)
        self.manifest = Manifest.of(model.state_dict())
        self._device = _device(device)
        self._model = _moved(copy.deepcopy(model), self._device)
        self._data = as_data("data", data)
        self._held_out = self._data if validation is None else as_data("validation", validation)
        self._loss = nn.functional.cross_entropy if loss is None else loss
        self._metrics = accuracy if metrics is None and loss is None else metrics
        self._optimizer = optimizer
        self._learning_rate = learning_rate
        self._batch_size = batch_size

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        """Train from ``weights`` on the local data.

        Args:
            weights: the global model, float, shape (length,); not written to.
            settings: epochs, learning rate, proximal mu and seed of this round.

        Returns:
            The trained vector, float32 (float64 if the model has doubles), and the number of examples of
            one pass.

        Raises:
            InputRefused: the vector does not fit the model, or the model changed its shapes.
            UsageError: the data gave no batch, or a batch that is no pair.
        """
        self._assign(weights)
        learning_rate = self._learning_rate if settings.learning_rate is None else settings.learning_rate
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        anchors = [parameter.detach().clone() for parameter in parameters]
        optimizer = self._optimizer(parameters, learning_rate)
        examples = 0
        self._model.train()
        with _seeded(settings.seed, self._device):
            shuffle = torch.Generator().manual_seed(settings.seed)
            data = in_batches(self._data, self._batch_size, shuffle)
            for _ in range(settings.epochs):
                examples = 0  # one pass, not all of them: the weight of a silo is how much data it holds
                for inputs, targets in self._on_device(data):
                    optimizer.zero_grad()
                    torch.autograd.backward(self._loss(self._model(inputs), targets))
                    if settings.proximal_mu > 0:
                        _add_proximal_gradient(parameters, anchors, settings.proximal_mu)
                    optimizer.step()
                    examples += len(targets)
        if examples == 0:
            raise UsageError("the training data gave no batch; give the silo at least one example")
        return Update(weights=self.weights(), examples=float(examples))

    def train_privately(
        self,
        weights: RealVector,
        settings: TrainingSettings,
        *,
        noise: LocalNoise,
        sampler: PoissonSampler,
        random: RandomSource = os.urandom,
    ) -> Update:
        """Train from ``weights`` with DP-SGD: every step is clipped by the record, and noised.

        Args:
            weights: the global model, float, shape (length,); not written to.
            settings: learning rate and proximal mu of this round. ``epochs`` and ``seed`` do not count:
                what is drawn here must not be known.
            noise: clip, multiplier, sampling rate and number of steps.
            sampler: draws the rows of every step, ``noise.steps`` times; a loader's own order is not used.
            random: 8 bytes seed dropout, 32 bytes key a block of noise.

        Returns:
            The trained vector, of which nothing but the trainable parameters differs from ``weights``, and
            the number of the silo's records.

        Raises:
            InputRefused: the vector does not fit the model, or the model changed its shapes.
            ParameterError: a layer gives no gradients of single records; the data cannot be fetched by rows;
                the sampler's rate is not that of ``noise``. Nothing was computed.
            MissingExtra: Opacus is not installed.
        """
        from silo import dp_training

        records = Records.of(self._data, self._batch_size)
        learning_rate = self._learning_rate if settings.learning_rate is None else settings.learning_rate
        with self._record_gradients(weights, records, random) as gradients:
            anchors = [parameter.detach().clone() for parameter in gradients.parameters]

            def pull() -> None:
                if settings.proximal_mu > 0:
                    _add_proximal_gradient(gradients.parameters, anchors, settings.proximal_mu)

            dp_training.train_privately(
                gradients,
                self._optimizer(gradients.parameters, learning_rate),
                records=records,
                noise=noise,
                sampler=sampler,
                random=random,
                before_step=pull,
            )
        dp_training.copy_trained(gradients.model, self._model)
        return Update(weights=self.weights(), examples=float(len(records)))

    def gradient_sum(
        self, weights: RealVector, settings: TrainingSettings, *, sampler: PoissonSampler, l2_clip_norm: float
    ) -> RealVector:
        """Return the sum of the gradients at ``weights`` of the records of one sample, each clipped.

        Args:
            weights: the global model, float, shape (length,); not written to.
            settings: of this round; none of them counts.
            sampler: draws once.
            l2_clip_norm: bound > 0 of the vector that one record adds to the sum.

        Returns:
            float64, shape (length,), not divided by anything; zeros at buffers and frozen parameters, and
            where no record was drawn. A record whose gradient is not finite adds zero.

        Raises:
            InputRefused: the vector does not fit the model, or the model changed its shapes.
            ParameterError: ``l2_clip_norm`` is out of range, a layer gives no gradients of single records, or
                the data cannot be fetched by rows. Nothing was computed.
            MissingExtra: Opacus is not installed.
        """
        from silo import dp_training

        del settings
        bound = positive("l2_clip_norm", l2_clip_norm)
        records = Records.of(self._data, self._batch_size)
        with self._record_gradients(weights, records, os.urandom) as gradients:
            return dp_training.gradient_sum(
                gradients, self.manifest, records=records, sampler=sampler, l2_clip_norm=bound
            )

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Measure ``weights`` on the validation data, or on the training data if there is none.

        Returns:
            ``loss`` and the metrics, and the number of examples measured.

        Raises:
            InputRefused: the vector does not fit the model, or the model changed its shapes.
            UsageError: the data gave no batch, or a batch that is no pair.
        """
        self._assign(weights)
        self._model.eval()
        total, outputs, targets = 0.0, [], []
        with torch.inference_mode(), _seeded(0, self._device):
            for batch, answers in self._on_device(in_batches(self._held_out, self._batch_size, None)):
                scores = self._model(batch)
                total += self._loss(scores, answers).item() * len(answers)
                outputs.append(scores.cpu())
                targets.append(answers.cpu())
            if not targets:
                raise UsageError("the evaluation data gave no batch; give the silo at least one example")
            examples = sum(map(len, targets))
            values = {"loss": total / examples}
            if self._metrics is not None:
                values |= self._metrics(torch.cat(outputs), torch.cat(targets))
        return Evaluation(metrics=values, examples=float(examples))

    def initial(self, seed: int) -> NDArray[Any]:
        """Return freshly seeded weights, shape (length,): every module's own ``reset_parameters``.

        Parameters that no such module owns (a bare ``nn.Parameter``) keep the value of the model that
        was handed in, and so does an initialisation done by hand: start from ``weights()`` to keep that.

        Args:
            seed: 64 bits; same seed, same weights at every silo.
        """
        model = copy.deepcopy(self._model).cpu()  # drawn on the CPU, so that the device does not matter
        with _seeded(seed, torch.device("cpu")):
            for module in model.modules():
                # Attention spells it with an underscore; both are torch's own.
                reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
                if callable(reset):
                    reset()
        return self.manifest.pack(model.state_dict())

    def weights(self) -> NDArray[Any]:
        """Return the model's present weights, shape (length,), to continue from a pretrained model.

        Raises:
            InputRefused: the model changed its shapes.
        """
        return self.manifest.pack(self._model.state_dict())

    def state_dict(self, weights: RealVector) -> dict[str, Tensor]:
        """Return ``weights`` as a complete state dict on the CPU, this silo's integer buffers included.

        Raises:
            InputRefused: the vector does not fit the model, or the model changed its shapes.
        """
        present = self._model.state_dict()
        self.manifest.check(present)
        shared = self.manifest.unpack(weights)
        return {name: shared[name] if name in shared else present[name].cpu().clone() for name in present}

    def load(self, weights: RealVector) -> nn.Module:
        """Return a copy of the model that carries ``weights``, on the CPU and ready to predict.

        Raises:
            InputRefused: the vector does not fit the model, or the model changed its shapes.
        """
        state = self.state_dict(weights)
        model = copy.deepcopy(self._model).cpu()
        model.load_state_dict(state)
        return model.eval()

    def save(self, weights: RealVector, path: str | os.PathLike[str]) -> None:
        """Write ``weights`` as a safetensors file.

        Stock torch reads it: ``model.load_state_dict(safetensors.torch.load_file(path))``.

        Args:
            weights: float, shape (length,).
            path: file to write; replaced if it exists.

        Raises:
            InputRefused: the vector does not fit the model, or the model changed its shapes.
            EnvironmentFault: the file cannot be written.
        """
        metadata = {"format": "pt", "manifest": self.manifest.digest}
        state = {name: tensor.contiguous() for name, tensor in self.state_dict(weights).items()}
        try:
            save_file(state, path, metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise EnvironmentFault(f"cannot write {os.fspath(path)}: {error}") from error

    def _assign(self, weights: RealVector) -> None:
        self.manifest.check(self._model.state_dict())
        # Not strict: the integer buffers are this silo's own and are left as they are.
        self._model.load_state_dict(self.manifest.unpack(weights), strict=False)

    @contextmanager
    def _record_gradients(
        self, weights: RealVector, records: Records, random: RandomSource
    ) -> Iterator[RecordGradients]:
        """Yield gradients of single records at ``weights``; dropout is drawn from a seed nobody knows."""
        from silo.record_gradients import RecordGradients

        self._assign(weights)
        with _seeded(int.from_bytes(random(8), "big"), self._device):
            yield RecordGradients(self._model, self._loss, records, self._device)

    def _on_device(self, data: Iterable[Any]) -> Iterator[tuple[Any, Tensor]]:
        for batch in data:
            yield pair(batch, self._device)


def _add_proximal_gradient(parameters: list[nn.Parameter], anchors: list[Tensor], mu: float) -> None:
    """Add the gradient of ``mu / 2 * |w - w_global|^2``."""
    with torch.no_grad():
        for parameter, anchor in zip(parameters, anchors, strict=True):
            pull = mu * (parameter - anchor)
            parameter.grad = pull if parameter.grad is None else parameter.grad.add_(pull)


def _check_functions(loss: object, metrics: object, optimizer: object) -> None:
    if loss is not None:
        if isinstance(loss, type):  # Called with a batch, a class would give a module and no loss.
            raise ParameterError(f"loss is {shown(loss)}, must be one of its instances")
        check_callable("loss", loss, "a function (outputs, targets) -> mean loss")
    if metrics is not None:
        check_callable("metrics", metrics, "a function (outputs, targets) -> name -> value")
    check_callable(
        "optimizer", optimizer, "a class of torch.optim, or a function (parameters, rate) -> optimiser"
    )


def _device(device: str | torch.device) -> torch.device:
    if not isinstance(device, str | torch.device):
        raise ParameterError(f"device is {shown(device)}, must be a text or a torch.device")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError:
        raise ParameterError(f"device {device!r} is not known to torch; 'auto' chooses one") from None


def _moved(model: nn.Module, device: torch.device) -> nn.Module:
    try:
        return model.to(device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:  # torch raises all three
        raise EnvironmentFault(f"device {device} cannot be used here; device='cpu' always can") from error


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's process-wide generators, and put them back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield
