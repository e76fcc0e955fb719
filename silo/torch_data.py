"""A silo's data as torch knows it: which forms are taken, in batches or by the row.

Training without differential privacy follows a loader's own order. A sampled step does not: its rows come
from outside, so what is needed there is random access to every record and a length (``Records``).

Source: torch.utils.data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from secagg.errors import ParameterError, UsageError
from secagg.ranges import shown

Data: TypeAlias = DataLoader[Any] | Dataset[Any] | tuple[Tensor, Tensor]
"""Examples as pairs (input, target): a loader of batches, a dataset, or two tensors of equal length."""


def as_data(name: str, data: object) -> DataLoader[Any] | Dataset[Any]:
    """Check the form of a silo's data and refuse an empty one.

    Args:
        name: of the argument, for the texts.
        data: as handed in.

    Raises:
        ParameterError: it is of no known form, or empty.
    """
    if isinstance(data, tuple):
        if len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
            raise ParameterError(f"{name} as a tuple must be two tensors (inputs, targets)")
        if 0 in (data[0].ndim, data[1].ndim):
            raise ParameterError(f"{name} has a tensor of no dimension; the first one counts the examples")
        if len(data[0]) != len(data[1]):
            raise ParameterError(f"{name} has {len(data[0])} inputs and {len(data[1])} targets")
        data = TensorDataset(*data)
    if not isinstance(data, DataLoader | Dataset):
        raise ParameterError(
            f"{name} is {shown(data)}, must be a DataLoader, a Dataset or a tuple of two tensors"
        )
    source = data.dataset if isinstance(data, DataLoader) else data
    if hasattr(source, "__len__") and len(source) == 0:
        raise ParameterError(f"{name} holds no example")
    return data


def in_batches(
    data: DataLoader[Any] | Dataset[Any], batch_size: int, shuffle: torch.Generator | None
) -> DataLoader[Any]:
    """Return ``data`` in batches; a loader keeps its own.

    Args:
        data: checked by ``as_data``.
        batch_size: at least 1.
        shuffle: orders a dataset; None for its own order.
    """
    if isinstance(data, DataLoader):
        return data
    shuffled = shuffle is not None and not isinstance(data, IterableDataset)
    return DataLoader(data, batch_size=batch_size, shuffle=shuffled, generator=shuffle)


def pair(batch: object, device: torch.device) -> tuple[Any, Tensor]:
    """Return (inputs, targets) of a batch, on ``device``.

    Raises:
        UsageError: it is no pair.
    """
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise UsageError("a batch must be a pair (inputs, targets); wrap the dataset to give pairs")
    inputs, targets = batch
    return inputs.to(device), targets.to(device)


@dataclass(frozen=True)
class Records:
    """Records that can be fetched by their rows.

    Attributes:
        dataset: with ``__getitem__`` and a length.
        collate: makes a batch of items; None for torch's own.
        batch_size: records that are in memory at a time.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None
    batch_size: int

    @classmethod
    def of(cls, data: DataLoader[Any] | Dataset[Any], batch_size: int) -> Records:
        """Take the dataset of a loader that does no more than shuffle, or a dataset itself.

        Args:
            data: checked by ``as_data``.
            batch_size: at least 1; a loader keeps its own.

        Raises:
            ParameterError: its records have no rows, or the loader chooses them in a way of its own.
        """
        source = data.dataset if isinstance(data, DataLoader) else data
        if isinstance(source, IterableDataset):
            raise ParameterError("a stream of records cannot be sampled; hand in a dataset with rows")
        if not hasattr(source, "__len__"):
            raise ParameterError("the dataset has no length; give it __len__, so that it can be sampled")
        if isinstance(data, DataLoader):
            _check_loader(data)
            return cls(source, data.collate_fn, data.batch_size or batch_size)
        return cls(source, None, batch_size)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type] # That it has a length was checked.

    def batches(self, rows: Sequence[int], *, batch_size: int | None = None) -> Iterable[Any]:
        """Return the records of ``rows`` in that order, ``batch_size`` at a time; none for no row."""
        size = self.batch_size if batch_size is None else batch_size
        return DataLoader(self.dataset, batch_size=size, sampler=list(rows), collate_fn=self.collate)


def _check_loader(loader: DataLoader[Any]) -> None:
    """Refuse a loader that decides which records are seen: the sampler of the step does that alone."""
    instead = "hand in its dataset: the rows of a private step are drawn here"
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        raise ParameterError(f"the DataLoader makes its batches in a way of its own; {instead}")
    sampler = loader.sampler
    plain = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type] # as above
    )
    if not plain or getattr(sampler, "data_source", None) is not loader.dataset:
        raise ParameterError(f"the DataLoader has a sampler of its own; {instead}")
