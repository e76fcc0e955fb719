"""Errors as they travel from a coordinator to whoever asked: a name from a closed table, and what it takes.

The other side raises the same class with the same text and the five lines of its explanation. An error that
is not in the table arrives as its nearest parent that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec

from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    FaultySilo,
    InputRefused,
    MalformedMessage,
    ParameterError,
    PolicyRefused,
    PrivacyBudgetExhausted,
    ProtocolError,
    RoundAborted,
    RunStopped,
    SecaggError,
    TooFewSilos,
    TrustError,
    UnexpectedMessage,
    UsageError,
)
from secagg.explanation import annotate

Fact: TypeAlias = str | int | bool | tuple[str, ...]


class Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """An error.

    Attributes:
        kind: a name of the table.
        facts: arguments of the class by name; only ``text`` for most.
        note: the five lines.
    """

    kind: str
    facts: dict[str, Fact]
    note: str

    @classmethod
    def of(cls, error: SecaggError) -> Failed:
        """Return what stands for ``error``, which gets its explanation if it has none yet."""
        kind = next(kind for kind in type(error).__mro__ if kind.__name__ in _TABLE)
        return cls(kind.__name__, dict(_facts(error)), annotate(error))

    @classmethod
    def read(cls, data: bytes) -> Failed:
        """Return what ``bytes()`` gave."""
        return _decoder.decode(data)

    def bytes(self) -> bytes:
        """Return it for the store."""
        return msgspec.msgpack.encode(self)

    def error(self) -> SecaggError:
        """Return the error.

        Raises:
            MalformedMessage: it is none of the table.
        """
        try:
            error: SecaggError = _TABLE[self.kind](**self.facts)
        except (KeyError, TypeError) as fault:
            raise MalformedMessage("the coordinator answers with an error that this version lacks") from fault
        error.add_note(self.note)
        return error


_decoder = msgspec.msgpack.Decoder(Failed)


def _plain(kind: type[SecaggError]) -> Callable[..., SecaggError]:
    return lambda *, text: kind(text)


def _facts(error: SecaggError) -> Mapping[str, Fact]:
    text = str(error)
    match error:
        case TooFewSilos():
            return {"have": error.have, "need": error.need, "phase": error.phase, "missing": error.missing}
        case FaultySilo():
            return {
                "silo": error.silo,
                "text": text.removeprefix(f"{error.silo}: "),
                "dealer": error.dealer,
            }
        case PolicyRefused():
            return {
                "rule": error.rule,
                "text": text.removeprefix(f"{error.rule}: "),
                "silos": error.silos,
            }
        case InputRefused():
            return {"rule": error.rule, "text": text}
        case ParameterError():
            return {"text": text, "parameter": error.parameter}
        case _:
            return {"text": text}


_TABLE: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {kind.__name__: kind for kind in (TooFewSilos, FaultySilo, PolicyRefused, InputRefused, ParameterError)}
    | {
        kind.__name__: _plain(kind)
        for kind in (
            EnvironmentFault,
            FaultyCoordinator,
            MalformedMessage,
            PrivacyBudgetExhausted,
            ProtocolError,
            RoundAborted,
            RunStopped,
            TrustError,
            UnexpectedMessage,
            UsageError,
        )
    }
)
