"""Models on disk: what comes back is what was written, and what is no model is refused in words."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from coordinator.model_file import (
    MANIFEST,
    FirstModel,
    read_checkpoint,
    read_initial,
    write_checkpoint,
    write_model,
    write_whole,
)
from coordinator.on_disk import OnDisk
from secagg.errors import EnvironmentFault, InputRefused, ParameterError
from secagg.fixedpoint import BLOCK
from secagg.learning.history import Record
from secagg.learning.model import GlobalModel
from secagg.learning.strategies import FedAdam, FedAvg, FedYogi, NextModel
from secagg.payload import Payload
from secagg.report import RoundReport
from secagg.weighting import decode_mean, encode_mean, plan_mean

REPORT = RoundReport(
    round=1,
    scheme="Masking",
    n=4,
    c=1,
    t=3,
    survivors=("a", "b", "c"),
    dropouts={"d": "MaskedInput"},
    parameters=7,
    word_bits=32,
    headroom_bits=1.5,
    worst_error=1e-4,
    metric_error=float("inf"),
    bytes_up={"Training": 10},
    seconds={"Training": 0.1},
)
RECORD = Record(0, {"loss": 0.1 + 0.2}, REPORT)


def saved(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, path, metadata)
    return path


# --- the initial model --------------------------------------------------------------------------------------


def test_tensors_follow_each_other_in_sorted_order(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "m",
        {"b": np.array([[1, 2], [3, 4]], np.float64), "a": np.array([5], np.float16), "c": np.float32(6)},
    )
    weights, layout = read_initial(path)
    assert weights.tolist() == [5, 1, 2, 3, 4, 6]
    assert weights.dtype == np.float64
    assert layout == (("a", (1,)), ("b", (2, 2)), ("c", ()))


def test_the_manifest_orders_them(tmp_path: Path) -> None:
    tensors = {"a": np.zeros(1, np.float32), "b": np.ones(2, np.float32)}
    path = saved(tmp_path / "m", tensors, {MANIFEST: '["b", "a"]'})
    weights, layout = read_initial(path)
    assert weights.tolist() == [1, 1, 0]
    assert [name for name, _ in layout] == ["b", "a"]


@pytest.mark.parametrize("manifest", ['["a"]', '["a", "b", "b"]', '["a", "x"]', "a, b", "[1, 2]"])
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, manifest: str) -> None:
    tensors = {"a": np.zeros(1, np.float32), "b": np.ones(2, np.float32)}
    with pytest.raises(ParameterError, match=r"secagg\.manifest in its metadata"):
        read_initial(saved(tmp_path / "m", tensors, {MANIFEST: manifest}))


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.uint8])
def test_what_is_no_float_is_refused_by_name(tmp_path: Path, dtype: Any) -> None:
    tensors = {"w": np.zeros(1, np.float32), "steps": np.zeros(1, dtype)}
    with pytest.raises(ParameterError, match=r"'steps' is .*made of F16, F32 or F64"):
        read_initial(saved(tmp_path / "m", tensors))


def test_a_type_that_numpy_lacks_is_refused_by_name(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "m").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with pytest.raises(ParameterError, match="'w' is BF16"):
        read_initial(tmp_path / "m")


def test_what_holds_no_weight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds no weight"):
        read_initial(saved(tmp_path / "m", {"w": np.zeros(0, np.float32)}))


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="NaN"):
        read_initial(saved(tmp_path / "m", {"w": np.array([np.nan])}))


def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="is not there"):
        read_initial(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"\x80\x04pickle")
    with pytest.raises(EnvironmentFault, match="no safetensors file"):
        read_initial(tmp_path / "m")


# --- the trained model --------------------------------------------------------------------------------------


def test_the_model_has_the_tensors_of_its_layout(tmp_path: Path) -> None:
    layout = (("b", (2, 2)), ("a", (1,)), ("scalar", ()))
    weights = np.array([1, 2, 3, 4, 5.5, 1 / 3])
    write_model(tmp_path / "m", GlobalModel(1, weights), layout)
    tensors = load_file(tmp_path / "m")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == dict.fromkeys(
        ("a", "b", "scalar"), np.dtype(np.float32)
    )
    assert tensors["b"].tolist() == [[1, 2], [3, 4]]
    again, same = read_initial(tmp_path / "m")
    assert same == layout
    assert np.array_equal(again, weights.astype(np.float32))


def test_without_a_layout_there_is_one_tensor(tmp_path: Path) -> None:
    write_model(tmp_path / "m", GlobalModel(1, np.arange(3.0)), ())
    assert load_file(tmp_path / "m")["weights"].tolist() == [0, 1, 2]


def test_stock_torch_loads_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    write_model(tmp_path / "m", GlobalModel(1, np.arange(6.0)), (("weight", (2, 2)), ("bias", (2,))))
    stock = torch.nn.Linear(2, 2)
    stock.load_state_dict(load_torch(tmp_path / "m"), strict=True)
    assert stock.weight.tolist() == [[0, 1], [2, 3]]
    assert stock.bias.tolist() == [4, 5]


@pytest.mark.parametrize("layout", [(("a", (2,)),), (("a", (2,)), ("a", (1,))), (("a", (-3,)), ("b", (6,)))])
def test_a_layout_of_another_model_is_refused(tmp_path: Path, layout: Any) -> None:
    with pytest.raises(ParameterError, match="layout"):
        write_model(tmp_path / "m", GlobalModel(1, np.arange(3.0)), layout)
    assert not list(tmp_path.iterdir())


# --- checkpoints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [None, RECORD])
@pytest.mark.parametrize("slots", [0, 2])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path, record: Record | None, slots: int) -> None:
    drawn = np.random.default_rng(0)
    model = GlobalModel(3, drawn.normal(size=5), tuple(drawn.normal(size=5) for _ in range(slots)))
    write_checkpoint(tmp_path / "c", model, record)
    again, same = read_checkpoint(tmp_path / "c")
    assert (again.round, again.digest, same is None) == (3, model.digest, record is None)
    if record is not None and same is not None:
        assert same == RECORD
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


LONG = 2 * BLOCK + 7


def test_a_stored_model_is_the_same_base_as_one_in_memory(tmp_path: Path) -> None:
    drawn = np.random.default_rng(1)
    model = GlobalModel(2, drawn.normal(size=LONG), tuple(drawn.normal(size=LONG) for _ in range(2)))
    stored = write_checkpoint(tmp_path / "c", model, RECORD)
    assert (stored.round, stored.length, stored.slots, stored.digest) == (2, LONG, 2, model.digest)
    assert GlobalModel.gathered(stored).digest == model.digest
    assert [block.length for block in stored.blocks()] == [BLOCK, BLOCK, 7]
    assert np.array_equal(stored.payload().array(), model.to_payload())
    assert np.array_equal(stored.weights().array(), model.weights)
    assert stored.payload().digest == model.payload().digest
    again, _ = read_checkpoint(tmp_path / "c")
    assert (again.round, again.digest) == (2, model.digest)
    tensors = load_file(tmp_path / "c")  # The library reads what this wrote.
    assert np.array_equal(tensors["weights"], model.weights)
    assert np.array_equal(tensors["state.1"], model.state[1])


def test_a_stored_model_outlives_its_name(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "c", GlobalModel(1, np.zeros(LONG)), None)
    second = write_checkpoint(tmp_path / "c", GlobalModel(2, np.ones(LONG)), None)
    (tmp_path / "c").unlink()
    assert not GlobalModel.gathered(first).weights.any()
    assert GlobalModel.gathered(second).weights.all()


@pytest.mark.parametrize(
    "strategy", [FedAvg(0.5), FedAdam(0.1), FedYogi(0.1)], ids=lambda s: type(s).__name__
)
def test_a_model_is_stepped_on_disk_as_in_memory_and_in_little_memory(tmp_path: Path, strategy: Any) -> None:
    length = 30 * BLOCK + 1
    weights = np.linspace(-1, 1, length)
    encoding = plan_mean(length, clip=1.0, cohort=3, weight_cap=10.0, least_total_weight=1.0)
    total = encode_mean(encoding, update=weights[::-1], weight=7.0, metrics={}, evaluation_weight=0.0)
    mean = decode_mean(encoding, total, silos=1)
    assert mean.update is not None
    expected = strategy.apply(strategy.start(weights), np.array(mean.values))
    first = write_checkpoint(tmp_path / "c", FirstModel(strategy, Payload.of(weights)), None)
    assert first.digest == strategy.start(weights).digest
    tracemalloc.start()
    try:
        second = write_checkpoint(tmp_path / "c", NextModel(first, strategy, mean.update), RECORD)
        write_model(tmp_path / "m", second, ())
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (second.round, second.digest) == (2, expected.digest)
    assert most < 8 * length / 2, "a step holds blocks, not the model"


def test_a_step_that_is_refused_leaves_the_checkpoint_that_was(tmp_path: Path) -> None:
    weights = np.zeros(LONG)
    first = write_checkpoint(tmp_path / "c", GlobalModel(1, weights), None)
    weights[-1] = np.nan
    with pytest.raises(InputRefused, match="NaN"):
        write_checkpoint(tmp_path / "c", FirstModel(FedAvg(), Payload.of(weights)), None)
    assert read_checkpoint(tmp_path / "c")[0].digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -8])
def test_a_checkpoint_that_was_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    write_checkpoint(tmp_path / "c", GlobalModel(1, np.arange(5.0)), None)
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:keep])
    with pytest.raises(EnvironmentFault, match="is damaged"):
        read_checkpoint(tmp_path / "c")


# --- bytes on disk ------------------------------------------------------------------------------------------


def test_bytes_on_disk_are_read_by_slices(tmp_path: Path) -> None:
    content = bytes(range(100))
    (tmp_path / "f").write_bytes(content)
    data = OnDisk.of(tmp_path / "f")
    assert len(data) == 100
    for part in (slice(None), slice(3, 7), slice(90, 200), slice(7, 3), slice(-5, None)):
        assert data[part] == content[part]
    assert data.part(10, 20)[5:] == content[15:30]
    with pytest.raises(TypeError, match="read-only"):
        data[:][0] = 1


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(100))
    data = OnDisk.of(tmp_path / "f")
    os.truncate(tmp_path / "f", 50)
    assert data[:50] == bytes(50)
    with pytest.raises(EnvironmentFault, match="became shorter"):
        data[:51]


def test_a_file_is_closed_when_nothing_refers_to_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(100))
    before = len(list(Path("/proc/self/fd").iterdir()))
    data = OnDisk.of(tmp_path / "f")
    part = data.part(0, 10)
    del data
    assert part[:] == bytes(10)
    del part
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_checkpoint(path, GlobalModel(1, np.arange(5.0)), None)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(EnvironmentFault, match="is damaged"):
        read_checkpoint(path)
    with pytest.raises(EnvironmentFault, match="is not there"):
        read_checkpoint(tmp_path / "d")


def test_what_cannot_be_written_leaves_what_was(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        write_whole(folder / "c", b"x")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        write_model(folder / "m", GlobalModel(1, np.arange(3.0)), ())
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        write_checkpoint(folder / "p", GlobalModel(1, np.arange(5.0)), None)
