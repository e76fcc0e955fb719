"""The protections that a run can be asked for."""

from __future__ import annotations

from typing import TypeAlias

from secagg.ckks.params import CKKS
from secagg.masking.params import Masking
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.plain import Plain

EncryptedScheme: TypeAlias = Paillier | ThresholdPaillier | CKKS
Scheme: TypeAlias = Masking | EncryptedScheme | Plain
