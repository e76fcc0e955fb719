"""The protections that a run can be asked for."""

from __future__ import annotations

from typing import TypeAlias

from secagg.masking.params import Masking
from secagg.plain import Plain

Scheme: TypeAlias = Masking | Plain
