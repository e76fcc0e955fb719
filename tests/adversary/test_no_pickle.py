"""Attack ``no_pickle``: bytes that run the attacker's code at whoever reads them.

Nothing that a peer sends and no file is ever unpickled or evaluated. Half of this is seen in the source: no
import and no call that could. The other half is tried: a pickle that leaves a mark when loaded is handed
in wherever bytes come in, and no mark appears.
"""

from __future__ import annotations

import ast
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import coordinator
import secagg
import secagg.records
import silo
from secagg import wire
from secagg.errors import MalformedMessage
from secagg.messages import BaseSent, PlainInput, Ready
from secagg.payload import Payload
from secagg.wire import VERSION

# --- in the source ----------------------------------------------------------------------------------------

EXAMPLES = Path(secagg.__file__).parent.parent / "examples"
MODULES = frozenset(
    ("pickle", "_pickle", "pickle5", "cloudpickle", "dill", "jsonpickle", "marshal", "shelve", "joblib")
)
"""Modules whose loaders run code."""
FUNCTIONS = frozenset(("eval", "exec", "compile", "__import__"))
METHODS = frozenset(("read_pickle", "to_pickle", "unsafe_load", "full_load", "load_all"))


def sources() -> list[Path]:
    roots = [Path(p) for package in (secagg, silo, coordinator) for p in package.__path__]
    return sorted(path for root in (*roots, EXAMPLES) for path in root.rglob("*.py"))


@cache
def code_runners(source: str) -> tuple[str, ...]:
    """Return what in ``source`` could run code that came as data."""
    tree = ast.parse(source)
    names = dict(imported(tree))
    found = [module for module in names.values() if module.partition(".")[0] in MODULES]
    found += [module for module in names.values() if module in {"torch.load", "yaml.load", "numpy.load"}]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += runs_code(node, names)
    return tuple(found)


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (name in the file, full name) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module or ''}.{alias.name}"


def runs_code(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    keywords = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
    if keywords.get("allow_pickle", False) is not False:
        yield "allow_pickle"
    arguments = {argument.value for argument in call.args if isinstance(argument, ast.Constant)}
    match call.func:
        case ast.Name(id=name) if name in FUNCTIONS:
            yield name
        case ast.Attribute(attr=name) if name in METHODS:
            yield name
        case ast.Attribute(value=ast.Name(id=owner), attr="load"):
            module = names.get(owner, owner)
            if module == "yaml" or (module == "torch" and keywords.get("weights_only") is not True):
                yield f"{module}.load"
        case ast.Attribute(attr="import_module") | ast.Name(id="import_module"):
            yield from MODULES & {str(argument).partition(".")[0] for argument in arguments}
        case _:
            pass


def test_no_pickle() -> None:
    paths = sources()
    assert {"wire.py", "torch_trainer.py", "__init__.py"} <= {path.name for path in paths}
    assert {path.name: code_runners(path.read_text("utf-8")) for path in paths} == {
        path.name: () for path in paths
    }, "code could run"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "from joblib import load",
        "def f(x):\n    import marshal\n    return marshal.loads(x)",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=chosen)",
        "from torch import load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=chosen)",
        "import yaml\nyaml.load(text)",
        "import pandas\npandas.read_pickle(path)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "import importlib\nimportlib.import_module('pickle')",
    ],
)
def test_no_pickle_mutant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    """The package with one such line in one of its modules."""
    copy = tmp_path / "secagg"
    shutil.copytree(next(iter(secagg.__path__)), copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "payload.py").open("a", encoding="utf-8") as module:
        module.write(f"\n{line}\n")
    monkeypatch.setattr("secagg.__path__", [str(copy)])
    with pytest.raises(AssertionError, match="code could run"):
        test_no_pickle()


def test_what_runs_no_code_is_not_accused() -> None:
    harmless = (
        "import torch, yaml, json, numpy as np\n"
        "torch.load(path, weights_only=True)\nyaml.safe_load(text)\njson.load(file)\n"
        "np.load(path)\nnp.load(path, allow_pickle=False)\nmodel.load(weights)\nmodel.eval()\n"
    )
    assert code_runners(harmless) == ()


# --- in use -------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def padded(bomb: bytes) -> bytes:
    """Return the bomb as whole words; what follows its end does not matter to pickle."""
    return bomb + bytes(-len(bomb) % 8)


def attack(mark: Path) -> None:
    """Hand the bomb in wherever bytes come in."""
    bomb = pickle.dumps(Bomb(mark))
    payload = memoryview(padded(bomb))
    digest = Payload.over("f8", len(payload) // 8, payload).digest
    ready = {"type": "Ready", "training": bytes(32)}
    headers = [
        bomb,
        VERSION + bomb,
        *(VERSION + msgspec.msgpack.encode(value) for value in (bomb, [bomb], {"type": bomb})),
        VERSION + msgspec.msgpack.encode(ready | {"training": bomb}),
        VERSION + msgspec.msgpack.encode(ready | {"type": bomb.hex()}),
        *(VERSION + msgspec.msgpack.encode(msgspec.msgpack.Ext(code, bomb)) for code in (-1, 0, 1, 80)),
        *(
            VERSION + msgspec.msgpack.encode({"type": "PlainInput", "training": bytes(32), "vector": vector})
            for vector in (bomb, [bomb], ("O", 1, digest), ("|O", len(payload) // 8, digest), ("f8", 1, bomb))
        ),
    ]
    for header in headers:
        for decode_from in (wire.decode_from_silo, wire.decode_from_coordinator):
            for body in (None, payload):
                with pytest.raises(MalformedMessage):
                    decode_from(header, body)
        with pytest.raises(MalformedMessage):
            secagg.records.decode_silo_record(header)
    # As a payload it is numbers, and stays numbers.
    words = Payload.over("u8", len(payload) // 8, payload)
    uploaded = wire.decode_from_silo(*wire.encode(PlainInput(bytes(32), words)))
    sent = wire.decode_from_coordinator(*wire.encode(BaseSent(bytes(32), words)))
    assert isinstance(uploaded, PlainInput)
    assert isinstance(sent, BaseSent)
    for message in (uploaded, sent):
        assert message.vector.array().tobytes() == payload
    total = np.zeros(words.length, np.uint64)
    uploaded.vector.add_into(total)
    assert not mark.exists(), "the bomb went off"


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(padded(pickle.dumps(Bomb(mark))))  # noqa: S301 - the control: it is a bomb
    assert mark.exists()
    mark.rmdir()
    attack(mark)


def header_unpickled(header: bytes, payload: memoryview | None, kind: Any) -> Any:
    with suppress(Exception):
        pickle.loads(header[1:])  # noqa: S301
    return decode(header, payload, kind)


def payload_unpickled(value: Any, payload: memoryview | None) -> Payload:
    if payload is not None:
        with suppress(Exception):
            pickle.loads(payload)  # noqa: S301
    return attach(value, payload)


def line_unpickled(line: bytes) -> Any:
    with suppress(Exception):
        pickle.loads(line)  # noqa: S301
    raise MalformedMessage("text")


attach, decode = wire._attach, wire.decode_as


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.wire.decode_as", header_unpickled),
        ("secagg.wire._attach", payload_unpickled),
        ("secagg.records.decode_silo_record", line_unpickled),
    ],
)
def test_no_pickle_is_loaded_mutant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, defence: str, mutant: Any
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="the bomb went off"):
        test_no_pickle_is_loaded(tmp_path)


def test_a_model_file_holds_no_pickle_and_none_is_read_as_one(tmp_path: Path) -> None:
    """What a silo writes is tensors behind a JSON header; the documented reader refuses everything else."""
    mark, path = tmp_path / "mark", tmp_path / "model.safetensors"
    model = torch.nn.Linear(3, 2)
    data = torch.utils.data.TensorDataset(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    trainer = silo.TorchTrainer(model, data)
    trainer.save(np.arange(8.0), path)
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    tensors = msgspec.json.decode(raw[8 : 8 + size])
    assert tensors.keys() == {"__metadata__", "weight", "bias"}
    assert len(raw) == 8 + size + 8 * 4
    model.load_state_dict(load_file(path))

    for content in (pickle.dumps(Bomb(mark)), raw[:8] + pickle.dumps(Bomb(mark))):
        path.write_bytes(content)
        with pytest.raises(SafetensorError):
            load_file(path)
    torch.save(Bomb(mark), path)
    with pytest.raises(SafetensorError):
        load_file(path)
    assert not mark.exists()


def test_a_message_refuses_nothing_else() -> None:
    """The control of the refusals: the same headers with the right value are messages."""
    header = VERSION + msgspec.msgpack.encode({"type": "Ready", "training": bytes(32)})
    assert wire.decode_from_silo(header) == Ready(bytes(32))
