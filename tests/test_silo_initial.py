"""The first weights as a file: named as the model names them, in the order of the vector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from coordinator.model_file import read_initial
from secagg.errors import EnvironmentFault, ParameterError, TrainerFailed
from silo.initial import write_initial
from silo.torch_trainer import TorchTrainer
from tests.learners import WEIGHTS, Line


def network() -> nn.Module:
    # Names in another order than the alphabet's, and buffers of both kinds.
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))


def trainer() -> TorchTrainer:
    return TorchTrainer(network(), (torch.zeros(8, 3), torch.zeros(8, dtype=torch.long)))


def test_a_torch_models_tensors_have_their_names_and_the_vectors_order(tmp_path: Path) -> None:
    made, path = trainer(), tmp_path / "initial.safetensors"
    length = write_initial(path, "north", made, seed=7)
    weights = made.initial(7)
    assert length == weights.size
    with safe_open(path, framework="np") as file:
        names = json.loads(file.metadata()["secagg.manifest"])
        np.testing.assert_array_equal(np.concatenate([file.get_tensor(n).ravel() for n in names]), weights)
    assert names == [entry.name for entry in made.manifest.shared]
    assert names != sorted(names)
    state = {name: t for name, t in network().state_dict().items() if t.is_floating_point()}
    assert {name: t.shape for name, t in load_file(path).items()} == {n: t.shape for n, t in state.items()}


def test_the_coordinator_reads_the_vector_that_the_silo_made(tmp_path: Path) -> None:
    for made in (trainer(), Line()):
        write_initial(tmp_path / "initial.safetensors", "north", made, seed=7)
        weights, _ = read_initial(tmp_path / "initial.safetensors")
        np.testing.assert_array_equal(weights, made.initial(7).astype(np.float64))


def test_the_same_seed_gives_the_same_file_and_another_another(tmp_path: Path) -> None:
    files = []
    for seed in (7, 7, 8):
        write_initial(tmp_path / "initial.safetensors", "north", trainer(), seed=seed)
        files.append((tmp_path / "initial.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


class Without:
    def train(self, weights: Any, settings: Any) -> Any:
        raise NotImplementedError

    def evaluate(self, weights: Any) -> Any:
        raise NotImplementedError


class Makes(Without):
    def __init__(self, result: Any) -> None:
        self._result = result

    def initial(self, seed: int) -> Any:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (Without(), ParameterError),
        (Makes(np.zeros((2, 2))), ParameterError),
        (Makes(np.zeros(0)), ParameterError),
        (Makes(np.zeros(3, dtype=np.int64)), ParameterError),
        (Makes([0.0]), TrainerFailed),
        (Makes(ValueError("patient 4711")), TrainerFailed),
    ],
    ids=["none", "matrix", "empty", "integers", "list", "raises"],
)
def test_what_is_no_vector_of_weights_is_refused(tmp_path: Path, made: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        write_initial(tmp_path / "initial.safetensors", "north", made, seed=7)
    assert "4711" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        write_initial(tmp_path / "no folder" / "initial.safetensors", "north", Line(), seed=7)
    assert Line().initial(7).size == WEIGHTS
