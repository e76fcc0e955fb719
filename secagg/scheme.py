"""The protections that a run can be asked for."""

from __future__ import annotations

from typing import TypeAlias, get_args

from secagg.ckks.params import CKKS
from secagg.errors import ParameterError
from secagg.masking.params import Masking
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.plain import Plain
from secagg.ranges import shown
from secagg.terms import SchemeTag

EncryptedScheme: TypeAlias = Paillier | ThresholdPaillier | CKKS
Scheme: TypeAlias = Masking | EncryptedScheme | Plain


def check_scheme(scheme: object) -> None:
    """Check that ``scheme`` is a protection.

    Raises:
        ParameterError: it is something else, such as a protection's name.
    """
    if isinstance(scheme, Scheme):
        return
    names = {tag.replace("-", "") for tag in get_args(SchemeTag)}
    named = isinstance(scheme, str) and scheme.casefold().replace("-", "") in names
    raise ParameterError(
        f"scheme is {repr(scheme) if named else shown(scheme)}, must be Masking(...), Paillier(...), "
        "ThresholdPaillier(...), CKKS(...) or Plain()"
    )
