"""What each hospital trains with: code that its operator reads, and approves by the hash of its source."""

from __future__ import annotations

import torch

from examples.medical_imaging.data import load_hospitals
from examples.medical_imaging.network import build_network, trainer_for
from silo import TorchTrainer

APP = "examples.medical_imaging.app:hospital"


def hospital(*, name: str, seed: int) -> TorchTrainer:
    """Return the trainer of one hospital.

    Args:
        name: of the hospital; stands in its ``silo.toml``, under ``[data.arguments]``.
        seed: of the simulated scanners.
    """
    torch.set_num_threads(1)  # The network is small: two threads gain little and stall beside other work.
    return trainer_for(load_hospitals(seed)[name], build_network())
