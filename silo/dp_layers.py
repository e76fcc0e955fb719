"""Layers that give no gradients of single records, by name, each with what to put in its place.

A bound on one record holds only if nothing but its own gradient depends on it. Batch normalisation makes
every record's output depend on its neighbours, running statistics are data that no noise covers, and some
layers are computed in one piece, so that the gradient of a single record never exists.

It reads the layers of a model, not its ``forward``: code of the model's own that mixes records is looked for
when training begins (``record_gradients``).

Source: Opacus, ``ModuleValidator``, whose list this one includes; it misses normalisation without trainable
parameters, subclasses, and running statistics that its own replacement keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from secagg.errors import ParameterError
from silo.opacus_parts import ModuleValidator

FINE = "every layer gives gradients of single records"


@dataclass(frozen=True)
class Misfit:
    """A layer that cannot be trained with differential privacy.

    Attributes:
        names: of the layer in the model, more than one if it is shared; ``""`` is the model itself.
        kind: its class.
        fault: what is wrong with it.
        replacement: Python that makes another in its place, of the names ``nn`` and ``layers``
            (``opacus.layers``); empty if none is known.
        keeps_weights: the other has the same weights and is given them.
    """

    names: tuple[str, ...]
    kind: str
    fault: str
    replacement: str = ""
    keeps_weights: bool = False

    def __str__(self) -> str:
        cure = f"{self.replacement} in its place" if self.replacement else "no replacement is known"
        return f"{' = '.join(name or 'the model' for name in self.names)}: {self.kind} {self.fault}; {cure}"


def check_layers(model: nn.Module) -> None:
    """Refuse a model with layers that give no gradients of single records.

    Args:
        model: in training mode.

    Raises:
        ParameterError: it has some; the text names every one of them and its replacement.
        MissingExtra: Opacus is not installed.
    """
    found = misfits(model)
    if found:
        raise ParameterError(
            "the model cannot be trained with differential privacy. "
            + ". ".join(map(str, found))
            + ". `silo check model.py --fix` writes the replacements"
        )


def misfits(model: nn.Module) -> tuple[Misfit, ...]:
    """Return the layers of ``model`` that give no gradients of single records, in its order.

    Args:
        model: in training mode.
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    found = {
        module: Misfit(tuple(places), type(module).__name__, *verdict)
        for module, places in names.items()
        if (verdict := _verdict(module)) is not None
    }
    known = {id(buffer) for module in found for buffer in module.buffers()}
    for module, places in names.items():
        # Opacus would refuse it without a name: the buffers of a layer that trains may hold what it saw.
        kept = [name for name, buffer in module.named_buffers() if id(buffer) not in known]
        if module not in found and kept and _trains(module):
            fault = f"has parameters of its own beside buffers ({', '.join(kept)}); move the one or the other"
            found[module] = Misfit(tuple(places), type(module).__name__, f"{fault} into a layer of its own")
    return tuple(found[module] for module in names if module in found)


_Verdict = tuple[str] | tuple[str, str] | tuple[str, str, bool]


def _verdict(module: nn.Module) -> _Verdict | None:
    if isinstance(module, _BatchNorm):
        # One that is kept in evaluation mode uses frozen statistics, which are public like the model.
        batch = module.training or module.running_mean is None
        return ("mixes records", _group_norm(module)) if batch else None
    if isinstance(module, _InstanceNorm):
        tracks = module.track_running_stats or module.running_mean is not None
        return ("keeps statistics of the records", _instance_norm(module)) if tracks else None
    if not any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
        return None
    if isinstance(module, nn.RNNBase):
        return ("is computed in one piece", _recurrent(module), True)
    if isinstance(module, nn.MultiheadAttention):
        return ("is computed in one piece", _attention(module), True)
    check = ModuleValidator.VALIDATORS.get(type(module))
    if check is not None and check(module):
        return ("is one that Opacus does not support",)
    return None


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _call(kind: str, *values: object, **options: tuple[object, object]) -> str:
    """Write a call; an option is (value, default), and left out where they are equal."""
    given = [f"{name}={value!r}" for name, (value, default) in options.items() if value != default]
    return f"{kind}({', '.join([*map(repr, values), *given])})"


def _group_norm(module: _BatchNorm) -> str:
    features = module.num_features
    # Of inputs without positions, such as (records, features), 32 groups of 32 features would leave zeros.
    groups = 1 if isinstance(module, nn.BatchNorm1d) else math.gcd(32, features)
    return _call("nn.GroupNorm", groups, features, eps=(module.eps, 1e-5), affine=(module.affine, True))


def _instance_norm(module: _InstanceNorm) -> str:
    kind = next((kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.")), None)
    if kind is None or kind is _InstanceNorm or "Lazy" in kind.__name__:
        return ""
    options = {"eps": (module.eps, 1e-5), "affine": (module.affine, False)}
    return _call(f"nn.{kind.__name__}", module.num_features, **options)


def _recurrent(module: nn.RNNBase) -> str:
    names = {nn.RNN: "DPRNN", nn.GRU: "DPGRU", nn.LSTM: "DPLSTM"}
    name = names.get(type(module))  # Not a subclass: its forward may be another.
    if name is None or module.proj_size:
        return ""
    options: dict[str, tuple[object, object]] = {
        "num_layers": (module.num_layers, 1),
        "bias": (module.bias, True),
        "batch_first": (module.batch_first, False),
        "dropout": (module.dropout, 0.0),
        "bidirectional": (module.bidirectional, False),
    }
    if isinstance(module, nn.RNN):
        options["nonlinearity"] = (module.nonlinearity, "tanh")
    return _call(f"layers.{name}", module.input_size, module.hidden_size, **options)


def _attention(module: nn.MultiheadAttention) -> str:
    if type(module) is not nn.MultiheadAttention:
        return ""
    return _call(
        "layers.DPMultiheadAttention",
        module.embed_dim,
        module.num_heads,
        dropout=(module.dropout, 0.0),
        bias=(module.in_proj_bias is not None, True),
        add_bias_kv=(module.bias_k is not None, False),
        add_zero_attn=(module.add_zero_attn, False),
        kdim=(module.kdim, module.embed_dim),
        vdim=(module.vdim, module.embed_dim),
        batch_first=(module.batch_first, False),
    )
