"""A MedMNIST file of your own, shared out among silos: ``load_medmnist("bloodmnist.npz", silos=[...])``.

What it is: reads the ``.npz`` that MedMNIST publishes for its 2-D data sets with one label an image, and
gives every silo a contiguous block of each split, so that no image is at two silos.

What it does not do: it downloads nothing, unpickles nothing, and takes no multi-label (chestmnist) and no
3-D set. The blocks follow the order of the file; MedMNIST does not say which hospital an image is from.

Source: Yang et al. 2023 (Scientific Data), MedMNIST v2: arrays ``{train,val,test}_{images,labels}``.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EnvironmentFault, ParameterError
from secagg.names import SiloId

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Share:
    """One silo's part of the file.

    Attributes:
        images: split -> float32, shape (n, channels, h, w), 0 to 1, with 1 or 3 channels.
        labels: split -> int64, shape (n,).
        classes: number of classes in the whole file, the same at every silo.
    """

    images: dict[Split, NDArray[np.float32]]
    labels: dict[Split, NDArray[np.int64]]
    classes: int


def load_medmnist(path: str | os.PathLike[str], *, silos: Sequence[SiloId]) -> dict[SiloId, Share]:
    """Read a MedMNIST file and return each silo's contiguous share of every split.

    Args:
        path: the ``.npz``.
        silos: names, at least 1, each once; every split needs an image for each.

    Raises:
        ParameterError: no silo, a name twice, or fewer images than silos in a split.
        EnvironmentFault: the file cannot be read, lacks an array, or an array has another form.

    Guarantees:
        - Every image of the file is at exactly one silo, in the order of the file.
        - A file that holds pickled objects is refused and none is loaded.
    """
    if not silos or len(set(silos)) != len(silos):
        raise ParameterError("silos must name at least one silo, and each of them once")
    arrays = _read(path)
    images = {split: _images(path, split, arrays) for split in SPLITS}
    labels = {split: _labels(path, split, arrays, len(images[split])) for split in SPLITS}
    if len({block.shape[1:] for block in images.values()}) != 1:
        raise EnvironmentFault(f"{os.fspath(path)}: the splits hold images of different sizes")
    for split, block in images.items():
        if len(block) < len(silos):
            raise ParameterError(f"{split} has {len(block)} images for {len(silos)} silos; name fewer silos")
    classes = 1 + max(int(block.max()) for block in labels.values())
    return {
        silo: Share(
            images={split: np.array_split(block, len(silos))[place] for split, block in images.items()},
            labels={split: np.array_split(block, len(silos))[place] for split, block in labels.items()},
            classes=classes,
        )
        for place, silo in enumerate(silos)
    }


def _read(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    name = os.fspath(path)
    needed = [f"{split}_{part}" for split in SPLITS for part in ("images", "labels")]
    try:
        # zipfile first, so that a lone array or a text is told apart before NumPy guesses what it is.
        # Pickled objects run code of whoever wrote them; without them a ValueError is all that happens.
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            missing = [key for key in needed if key not in file.files]
            if missing:
                raise EnvironmentFault(f"{name} lacks {', '.join(missing)}; is it a MedMNIST file?")
            return {key: file[key] for key in needed}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise EnvironmentFault(f"cannot read {name} as a MedMNIST .npz: {type(error).__name__}") from error


def _images(
    path: str | os.PathLike[str], split: Split, arrays: dict[str, NDArray[Any]]
) -> NDArray[np.float32]:
    block = arrays[f"{split}_images"]
    if block.dtype != np.uint8 or block.ndim not in (3, 4) or (block.ndim == 4 and block.shape[3] != 3):
        raise EnvironmentFault(
            f"{os.fspath(path)}: {split}_images is {block.dtype} {block.shape}; uint8 (n, h, w) or "
            "(n, h, w, 3) is needed"
        )
    channels_first = block[:, None] if block.ndim == 3 else block.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(channels_first, np.float32) / np.float32(255)


def _labels(
    path: str | os.PathLike[str], split: Split, arrays: dict[str, NDArray[Any]], count: int
) -> NDArray[np.int64]:
    block = arrays[f"{split}_labels"]
    if block.dtype.kind not in "iu" or block.shape not in ((count,), (count, 1)):
        raise EnvironmentFault(
            f"{os.fspath(path)}: {split}_labels is {block.dtype} {block.shape}; one integer for each of "
            f"{count} images is needed"
        )
    if count and int(block.min()) < 0:
        raise EnvironmentFault(f"{os.fspath(path)}: {split}_labels has a label below 0")
    return block.reshape(count).astype(np.int64)
