"""The MedMNIST loader on generated files: shares, forms, and refusals that name what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from examples.medical_imaging.medmnist import SPLITS, load_medmnist
from secagg import TrainingSettings
from secagg.errors import EnvironmentFault, ParameterError
from silo import TorchTrainer

COUNTS = {"train": 13, "val": 7, "test": 5}


def arrays(*, colour: bool = False) -> dict[str, NDArray[Any]]:
    """A small file: three classes, 28 x 28, labels of shape (n, 1) as MedMNIST has them."""
    random = np.random.default_rng(0)
    content: dict[str, NDArray[Any]] = {}
    for split, count in COUNTS.items():
        size = (count, 28, 28, 3) if colour else (count, 28, 28)
        content[f"{split}_images"] = random.integers(0, 256, size, dtype=np.uint8)
        content[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 3)[:, None]
    return content


def written(folder: Path, content: dict[str, NDArray[Any]]) -> Path:
    path = folder / "some.npz"
    np.savez(path, allow_pickle=True, **content)
    return path


@pytest.mark.parametrize("colour", [False, True])
def test_shares_put_together_are_the_file_in_its_order(tmp_path: Path, colour: bool) -> None:
    content = arrays(colour=colour)
    shares = load_medmnist(written(tmp_path, content), silos=["a", "b", "c"])
    assert list(shares) == ["a", "b", "c"]
    for split in SPLITS:
        images = np.concatenate([share.images[split] for share in shares.values()])
        labels = np.concatenate([share.labels[split] for share in shares.values()])
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
        assert images.shape == (COUNTS[split], 3 if colour else 1, 28, 28)
        back = np.rint(images * 255).astype(np.uint8)
        stored = content[f"{split}_images"]
        assert np.array_equal(back.transpose(0, 2, 3, 1) if colour else back[:, 0], stored)
        assert np.array_equal(labels, content[f"{split}_labels"][:, 0])
        sizes = [len(share.labels[split]) for share in shares.values()]
        assert max(sizes) - min(sizes) <= 1
    assert {share.classes for share in shares.values()} == {3}


def test_a_share_trains(tmp_path: Path) -> None:
    share = load_medmnist(written(tmp_path, arrays()), silos=["a", "b"])["b"]
    model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, share.classes))
    train, held_out = (
        (torch.from_numpy(share.images[split]), torch.from_numpy(share.labels[split]))
        for split in ("train", "val")
    )
    trainer = TorchTrainer(model, train, validation=held_out)
    update = trainer.train(trainer.initial(0).astype(np.float64), TrainingSettings(round=1))
    assert update.examples == 6.0


def test_a_missing_file_and_a_file_that_is_no_archive_are_environment_faults(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"cannot read .*absent\.npz"):
        load_medmnist(tmp_path / "absent.npz", silos=["a"])
    for name, content in (
        ("text.npz", b"not an archive"),
        ("empty.npz", b""),
        ("cut.npz", b"PK\x03\x04half"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EnvironmentFault, match=f"cannot read .*{name}"):
            load_medmnist(tmp_path / name, silos=["a"])
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(EnvironmentFault, match=r"cannot read .*single\.npy"):
        load_medmnist(tmp_path / "single.npy", silos=["a"])


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    content = arrays()
    del content["val_images"], content["test_labels"]
    with pytest.raises(EnvironmentFault, match="lacks val_images, test_labels"):
        load_medmnist(written(tmp_path, content), silos=["a"])


class Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    content = {**arrays(), "val_labels": np.array([Trap(trace)] * COUNTS["val"], dtype=object)}
    path = written(tmp_path, content)
    with pytest.raises(EnvironmentFault, match="cannot read"):
        load_medmnist(path, silos=["a"])
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as file:  # the control: the trap does spring
        assert len(file["val_labels"]) == COUNTS["val"]
    assert trace.exists()


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("val_images", np.zeros((7, 28, 28), np.float64), "val_images is float64"),
        ("val_images", np.zeros((7, 28, 28, 4), np.uint8), r"val_images is uint8 \(7, 28, 28, 4\)"),
        ("val_images", np.zeros((7, 8, 28, 28, 3), np.uint8), "val_images is uint8"),
        ("val_images", np.zeros((7, 14, 14), np.uint8), "different sizes"),
        ("test_labels", np.zeros((4, 1), np.uint8), "one integer for each of 5 images"),
        ("test_labels", np.zeros((5, 14), np.uint8), "one integer for each of 5 images"),
        ("test_labels", np.zeros((5, 1), np.float32), "test_labels is float32"),
        ("test_labels", np.full((5, 1), -1, np.int64), "below 0"),
    ],
)
def test_arrays_of_another_form_are_named(tmp_path: Path, key: str, value: NDArray[Any], text: str) -> None:
    with pytest.raises(EnvironmentFault, match=text):
        load_medmnist(written(tmp_path, {**arrays(), key: value}), silos=["a"])


@pytest.mark.parametrize("silos", [[], ["a", "a"]])
def test_silos_must_be_named_once(tmp_path: Path, silos: list[str]) -> None:
    with pytest.raises(ParameterError, match="at least one silo"):
        load_medmnist(written(tmp_path, arrays()), silos=silos)


def test_more_silos_than_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="test has 5 images for 6 silos"):
        load_medmnist(written(tmp_path, arrays()), silos=list("abcdef"))
