"""``silo check model.py``: each layer that does not fit is named; the written fix is a model that trains."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secagg.errors import EnvironmentFault, ParameterError
from secagg.learning.trainer import TrainingSettings
from secagg.privacy.sampling import PoissonSampler
from silo import TorchTrainer

pytest.importorskip("opacus")

from silo.dp_layers import check_layers, misfits
from silo.model_check import ModelFile
from silo.opacus_parts import ModuleValidator


def faults(model: nn.Module) -> list[tuple[str, str, str]]:
    return [(misfit.names[0], misfit.fault, misfit.replacement) for misfit in misfits(model.train())]


MIXES, KEEPS, ONE_PIECE = "mixes records", "keeps statistics of the records", "is computed in one piece"


class Timm(nn.BatchNorm2d):
    """A subclass, which Opacus's own list does not know."""


@pytest.mark.parametrize(
    ("layer", "fault", "replacement"),
    [
        (nn.BatchNorm2d(64), MIXES, "nn.GroupNorm(32, 64)"),
        (nn.BatchNorm2d(12, eps=0.1), MIXES, "nn.GroupNorm(4, 12, eps=0.1)"),
        (nn.BatchNorm3d(8, affine=False), MIXES, "nn.GroupNorm(8, 8, affine=False)"),
        (nn.BatchNorm2d(8, track_running_stats=False), MIXES, "nn.GroupNorm(8, 8)"),
        (nn.BatchNorm2d(8).requires_grad_(requires_grad=False), MIXES, "nn.GroupNorm(8, 8)"),
        (nn.BatchNorm1d(32), MIXES, "nn.GroupNorm(1, 32)"),
        (nn.SyncBatchNorm(16), MIXES, "nn.GroupNorm(16, 16)"),
        (Timm(16), MIXES, "nn.GroupNorm(16, 16)"),
        (nn.InstanceNorm2d(4, track_running_stats=True), KEEPS, "nn.InstanceNorm2d(4)"),
        (
            nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
            KEEPS,
            "nn.InstanceNorm1d(4, affine=True)",
        ),
        (nn.RNN(3, 4, nonlinearity="relu"), ONE_PIECE, "layers.DPRNN(3, 4, nonlinearity='relu')"),
        (nn.GRU(3, 4, bias=False), ONE_PIECE, "layers.DPGRU(3, 4, bias=False)"),
        (
            nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5, bidirectional=True),
            ONE_PIECE,
            "layers.DPLSTM(3, 4, num_layers=2, batch_first=True, dropout=0.5, bidirectional=True)",
        ),
        (nn.LSTM(3, 4, proj_size=2), ONE_PIECE, ""),
        (
            nn.MultiheadAttention(8, 2, kdim=3, batch_first=True),
            ONE_PIECE,
            "layers.DPMultiheadAttention(8, 2, kdim=3, batch_first=True)",
        ),
    ],
)
def test_each_layer_is_named_with_what_is_wrong_and_what_to_put_there(
    layer: nn.Module, fault: str, replacement: str
) -> None:
    assert faults(nn.Sequential(nn.Identity(), layer)) == [("1", fault, replacement)]
    with pytest.raises(ParameterError, match=rf"1: {type(layer).__name__} {fault}"):
        check_layers(nn.Sequential(nn.Identity(), layer))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(2, 2),
        nn.Conv2d(2, 2, 2),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(3),
        nn.Embedding(3, 2),
        nn.InstanceNorm2d(4, affine=True),
        nn.LSTM(3, 4).requires_grad_(requires_grad=False),
        nn.Dropout(0.5),
    ],
)
def test_what_fits_is_not_named(layer: nn.Module) -> None:
    assert not faults(nn.Sequential(layer))
    check_layers(layer)


def test_everything_that_opacus_itself_refuses_is_named() -> None:
    for kind in ModuleValidator.VALIDATORS:
        sizes: dict[Any, tuple[Any, ...]] = {nn.MultiheadAttention: (4, 2), nn.LSTM: (2, 2), nn.GRU: (2, 2)}
        options = {"track_running_stats": True} if "InstanceNorm" in kind.__name__ else {}
        assert len(faults(nn.Sequential(kind(*sizes.get(kind, (4,)), **options)))) == 1, kind


def test_batch_normalisation_that_is_kept_in_evaluation_mode_is_let_be() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(mode=False)

    layer = Frozen(4).requires_grad_(requires_grad=False)
    assert not faults(nn.Sequential(layer, nn.Flatten(), nn.Linear(16, 2)))
    assert faults(nn.Sequential(Frozen(4)))[0][1].startswith("has parameters of its own beside buffers")


def test_buffers_beside_parameters_are_named_and_those_of_a_named_layer_are_not() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.norm = nn.Parameter(torch.zeros(2)), nn.BatchNorm1d(2)

    root = Root()
    assert [name for name, *_ in faults(root)] == ["norm"]
    root.norm.register_forward_hook(lambda *_: None)
    root.register_buffer("seen", torch.zeros(2))
    (name, fault, replacement), _ = faults(root)
    assert (name, replacement) == ("", "")
    assert fault.startswith("has parameters of its own beside buffers (seen)")


def test_a_shared_layer_is_one_misfit_with_both_names() -> None:
    norm = nn.BatchNorm2d(4)
    (misfit,) = misfits(nn.Sequential(norm, nn.ReLU(), norm))
    assert misfit.names == ("0", "2")
    assert str(misfit) == "0 = 2: BatchNorm2d mixes records; nn.GroupNorm(4, 4) in its place"


# Files.

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn1 = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
            self.body = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(8))
            self.again = self.body[1]
            self.lstm = nn.LSTM(36, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            x = self.again(self.body(self.bn1(self.conv(x))))
            return self.head(self.lstm(x.flatten(2))[0][:, -1])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder whose modules are forgotten afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def written(folder: Path, text: str, name: str = "wards.py") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return path


def check(*arguments: str, folder: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from silo.cli import main; main()", "check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.full
def test_the_command_names_fixes_and_passes(tmp_path: Path) -> None:
    path = written(tmp_path, NET)
    before = path.read_bytes()
    lines = (
        "bn1: BatchNorm2d mixes records; nn.GroupNorm(8, 8) in its place\n"
        "body.1 = again: BatchNorm2d mixes records; nn.GroupNorm(8, 8) in its place\n"
        "lstm: LSTM is computed in one piece; layers.DPLSTM(36, 5, batch_first=True) in its place\n"
    )
    assert check("wards.py", folder=tmp_path) == (2, lines, "")
    fixed = tmp_path / "wards_private.py"
    code, out, err = check("wards.py", "--fix", folder=tmp_path)
    assert (code, err) == (0, "")
    assert out == f"{lines}{fixed}  every layer gives gradients of single records\n"
    assert check(str(fixed), folder=tmp_path) == (0, "every layer gives gradients of single records\n", "")
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["wards.py", "wards_private.py"]


def test_the_command_without_a_model_is_that_of_the_configuration(tmp_path: Path) -> None:
    code, out, _ = check(folder=tmp_path)
    assert (code, out[:22]) == (3, "failed  configuration:")
    code, _, err = check("--fix", folder=tmp_path)
    assert code == 2
    assert "only with a model" in err


def test_the_written_file_makes_a_model_that_trains_privately(folder: Path) -> None:
    fixed = ModelFile.load(str(written(folder, NET))).fix()
    text = fixed.read_text(encoding="utf-8")
    assert 'model.set_submodule("bn1", nn.GroupNorm(8, 8))' in text
    model = ModelFile.load(str(fixed)).model
    trainer = TorchTrainer(model, (torch.randn(6, 1, 8, 8), torch.arange(6) % 3), batch_size=4)
    found = trainer.gradient_sum(
        trainer.weights().astype(np.float64),
        TrainingSettings(round=1),
        sampler=PoissonSampler(1.0),
        l2_clip_norm=1.0,
    )
    assert found.any()
    assert model.get_submodule("again") is model.get_submodule("body.1")


PRETRAINED = """
    import torch
    from torch import nn

    class Block(nn.Module):
        pass

    model = nn.Sequential(nn.LSTM(3, 4), nn.Identity())
"""


def test_a_model_that_stands_in_its_file_keeps_its_weights_and_is_not_touched(folder: Path) -> None:
    file = ModelFile.load(str(written(folder, PRETRAINED)))
    assert file.name == "model"
    fixed = ModelFile.load(str(file.fix())).model
    assert type(file.model.get_submodule("0")) is nn.LSTM
    for name, value in file.model.state_dict().items():
        assert torch.equal(fixed.state_dict()[name], value)


def test_a_model_that_is_one_layer_and_one_in_a_package_are_fixed_too(folder: Path) -> None:
    written(folder, "", "clinic/__init__.py")
    written(folder, "SIZE = 3", "clinic/sizes.py")
    path = written(
        folder,
        """
        from torch import nn
        from .sizes import SIZE

        def private_model() -> nn.Module:
            return nn.GRU(SIZE, 4)
        """,
        "clinic/gru.py",
    )
    fixed = ModelFile.load(str(path)).fix()
    assert type(ModelFile.load(str(fixed)).model).__name__ == "DPGRU"


def test_force_writes_anew(folder: Path) -> None:
    file = ModelFile.load(str(written(folder, NET)))
    path = file.fix()
    path.write_text("raise ValueError", encoding="utf-8")
    with pytest.raises(ParameterError, match="is there already"):
        file.fix()
    assert path.read_text(encoding="utf-8") == "raise ValueError"
    assert "GroupNorm" in file.fix(force=True).read_text(encoding="utf-8")


def test_nothing_is_written_where_a_layer_has_no_replacement(folder: Path) -> None:
    path = written(folder, "from torch import nn\nmodel = nn.Sequential(nn.LSTM(3, 4, proj_size=2))")
    with pytest.raises(ParameterError, match=r"nothing was written: 0: LSTM .* no replacement is known"):
        ModelFile.load(str(path)).fix()
    assert [item.name for item in folder.iterdir() if item.suffix] == ["wards.py"]


TWO = """
    from torch import nn

    class Small(nn.Sequential):
        pass

    class Large(nn.Sequential):
        def __init__(self):
            super().__init__(nn.BatchNorm1d(2))

    class Sized(nn.Module):
        def __init__(self, size):
            super().__init__()

    def count():
        return 3
"""


@pytest.mark.parametrize(
    ("text", "spec", "error", "says"),
    [
        (TWO, "wards.py", ParameterError, "has Small, Large; say which is meant, wards.py:Large"),
        (TWO, "wards.py:Medium", ParameterError, "has no model of the name Medium"),
        (TWO, "wards.py:count", ParameterError, "gives no torch.nn.Module"),
        (TWO, "wards.py:Sized", EnvironmentFault, "wards.py:Sized raised TypeError"),
        ("from torch import nn", "wards.py", ParameterError, "has no torch.nn.Module"),
        ("1 / 0", "wards.py", EnvironmentFault, "wards.py raised ZeroDivisionError"),
        ("if", "wards.py", EnvironmentFault, "wards.py raised SyntaxError"),
        (TWO, "clinic.py", EnvironmentFault, "is no file of Python that is there"),
        (TWO, "my-wards.py", EnvironmentFault, "is no file of Python that is there"),
    ],
)
def test_what_is_no_model_or_not_clear_is_said(
    folder: Path, text: str, spec: str, error: type[Exception], says: str
) -> None:
    written(folder, text)
    with pytest.raises(error, match=says):
        ModelFile.load(str(folder / spec))


def test_a_name_makes_it_clear(folder: Path) -> None:
    path = written(folder, TWO)
    assert [str(misfit.names[0]) for misfit in ModelFile.load(f"{path}:Large").misfits] == ["0"]
    assert not ModelFile.load(f"{path}:Small").misfits


def test_a_file_whose_name_another_module_has_is_refused(folder: Path) -> None:
    with pytest.raises(ParameterError, match=r"belongs to another module; rename numpy\.py"):
        ModelFile.load(str(written(folder, NET, "numpy.py")))
    with pytest.raises(ParameterError, match="letters, digits and _"):
        ModelFile.load(str(written(folder, NET, "my-wards.py")))
