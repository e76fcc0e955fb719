"""A ledger as a file for an auditor, who checks it with nothing but the roster.

One JSON object a line: what the ledger is, its entries with their chains, and the signed head. Each line has
one form only, and bytes are in hexadecimal digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from secagg.errors import EnvironmentFault, ParameterError, TrustError
from secagg.hazmat.framing import digest
from secagg.hazmat.identity import IdentityKey
from secagg.names import SiloId
from secagg.operator_files import unreadable
from secagg.privacy.entries import Charged, Entry, LedgerDamaged, genesis
from secagg.privacy.heads import LedgerHead, data_set_digest, head_fault, sign_head
from secagg.privacy.ledger import Budget, Ledger
from secagg.roster import Roster
from secagg.terms import Name

Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


class _Title(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="secagg ledger 1"
):
    silo: Name
    data_set: Name
    nonce: Hex32
    epsilon: float
    delta: float
    period_days: int


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="entry"):
    number: int
    time: int
    federation: str
    job: str
    round: int
    release: int
    training: Hex32
    charged: tuple[Charged, ...]
    chain: Hex32


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="head"):
    data_set: Hex32
    entries: int
    chain: Hex32
    signature: Hex64


EXPORT = digest("ledger export")
"""What a head in an export is signed for, in the place of a round."""

_Line: TypeAlias = _Title | _Entry | _Head
_decoder = msgspec.json.Decoder(_Line)


@dataclass(frozen=True)
class Export:
    """A ledger that somebody was handed.

    Attributes:
        silo: whose it is said to be.
        ledger: its lines are right.
        head: of these lines; whether ``silo`` signed it, ``check_signed`` tells.
    """

    silo: SiloId
    ledger: Ledger
    head: LedgerHead

    def check_signed(self, roster: Roster) -> None:
        """Check that the silo signed the head.

        Raises:
            TrustError: it did not.
        """
        if head_fault(roster, self.silo, self.head, None, context=EXPORT) is not None:
            raise TrustError(
                f"the head of {self.silo}'s ledger is not signed by its pinned key: compare fingerprints"
            )


def export_text(identity: IdentityKey, silo: SiloId, nonce: bytes, ledger: Ledger) -> str:
    """Return the file's text.

    Args:
        identity: signs the head.
        silo: whose identity it is.
        nonce: of the ledger, 32 bytes.
        ledger: all of it; its lines are on disk.
    """
    budget, (entries, chain) = ledger.budget or Budget(), ledger.head
    head = sign_head(identity, silo, ledger.data_set, entries=entries, chain=chain, context=EXPORT)
    lines: list[_Line] = [
        _Title(silo, ledger.data_set, nonce.hex(), budget.epsilon, budget.delta, budget.period_days)
    ]
    for entry, chain in zip(ledger.entries, ledger.chains, strict=True):
        fields = msgspec.structs.asdict(entry) | {"training": entry.training.hex(), "chain": chain.hex()}
        lines.append(_Entry(**fields))
    lines.append(_Head(head.data_set.hex(), head.entries, head.chain.hex(), head.signature.hex()))
    return "".join(msgspec.json.encode(line).decode() + "\n" for line in lines)


def write_export(path: Path, text: str) -> None:
    """Write a new file.

    Raises:
        EnvironmentFault: there is one already, or it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise EnvironmentFault(f"{path} is there already: name another file") from error
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror}") from error


def read_export(path: Path) -> Export:
    """Read and check a file that ``export_text`` made.

    Raises:
        EnvironmentFault: it cannot be read.
        LedgerDamaged: it is not as it was written.

    Guarantees:
        One changed, missing, added or moved byte is refused, or the signature does not fit.
    """
    try:
        return _export(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except LedgerDamaged as error:
        raise LedgerDamaged(f"{path} is no export as it was written ({error}): ask for it again") from error


def _export(data: bytes) -> Export:
    lines = _lines(data)
    match lines:
        case [_Title() as title, *middle, _Head() as last]:
            entries = [line for line in middle if isinstance(line, _Entry)]
        case _:
            raise LedgerDamaged("title or head is missing")
    if len(entries) < len(middle):
        raise LedgerDamaged("title or head stands among the entries")
    try:
        ledger = Ledger(
            title.data_set,
            genesis=genesis(title.data_set, bytes.fromhex(title.nonce)),
            lines=[(_packed(entry), bytes.fromhex(entry.chain)) for entry in entries],
            budget=Budget(title.epsilon, title.delta, title.period_days),
            keep=_refuse,
            clock=lambda: entries[-1].time if entries else 0,
        )
    except ParameterError as error:
        raise LedgerDamaged(str(error)) from error
    head = LedgerHead(
        bytes.fromhex(last.data_set), last.entries, bytes.fromhex(last.chain), bytes.fromhex(last.signature)
    )
    told = (head.data_set, head.entries, head.chain)
    if told != (data_set_digest(title.silo, title.data_set), *ledger.head):
        raise LedgerDamaged("the head is of another ledger")
    return Export(title.silo, ledger, head)


def _lines(data: bytes) -> Sequence[_Line]:
    lines = []
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        try:
            read: _Line = _decoder.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise LedgerDamaged(f"line {number} of the file cannot be read") from None
        if msgspec.json.encode(read) + b"\n" != line:
            raise LedgerDamaged(f"line {number} of the file is not in its only form")
        lines.append(read)
    return lines


def _packed(entry: _Entry) -> bytes:
    fields = {name: getattr(entry, name) for name in Entry.__struct_fields__}
    return msgspec.msgpack.encode(Entry(**fields | {"training": bytes.fromhex(entry.training)}))


def _refuse(_line: bytes, _chain: bytes) -> None:
    raise LedgerDamaged("an export takes no entry")
