"""Numbers and mappings as callers hand them in, checked once where they enter.

Behind the border there are only Python's own ``int`` and ``float``: they have one encoding in a digest, while
a NumPy scalar of the same value has none. What a number means, and bounds between two of them, are checked
where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real

from secagg.errors import ParameterError


def whole(name: str, value: object, *, least: int | None = None, parameter: str = "") -> int:
    """Return ``value`` as an int.

    Args:
        name: of the parameter, for the text.
        value: any integer type, also of NumPy; True is no number.
        least: the smallest that is accepted; None for any.
        parameter: as of ``ParameterError``.

    Raises:
        ParameterError: not a whole number, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ParameterError(f"{name} is {shown(value)}, must be a whole number", parameter=parameter)
    number = int(value)
    if least is not None and number < least:
        raise ParameterError(f"{name} is {number}, must be at least {least}", parameter=parameter)
    return number


def real(name: str, value: object) -> float:
    """Return ``value`` (any real type, also of NumPy; True is no number) as a finite float.

    Raises:
        ParameterError: not a real number, NaN, infinite, or beyond the range of float64.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ParameterError(f"{name} is {shown(value)}, must be a real number")
    try:
        number = float(value)
    except OverflowError:  # An integer beyond float64.
        number = math.inf
    if not math.isfinite(number):
        raise ParameterError(f"{name} is {number}, must be finite")
    return number


def positive(name: str, value: object) -> float:
    """Return ``value`` as a float that is above 0 and finite.

    Raises:
        ParameterError: it is not.
    """
    number = real(name, value)
    if number <= 0:
        raise ParameterError(f"{name} is {number}, must be above 0 and finite")
    return number


def check_mapping(name: str, value: object, content: str) -> None:
    """Check that ``value`` is a mapping; ``content`` says of what, for the text.

    Raises:
        ParameterError: it is none.
    """
    if not isinstance(value, Mapping):
        raise ParameterError(f"{name} is {shown(value)}, must be a mapping: {content}")


def check_callable(name: str, value: object, kind: str) -> None:
    """Check that ``value`` can be called; ``kind`` says as what, for the text.

    Raises:
        ParameterError: it cannot.
    """
    if not callable(value):
        raise ParameterError(f"{name} is {shown(value)}, must be {kind}")


def shown(value: object) -> str:
    """Return what a text may say about a wrong argument: a number's value, of all else the type alone.

    Anything can be handed in by mistake, also a data set, so what is no number is not quoted.
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    return f"of type {type(value).__name__}"
