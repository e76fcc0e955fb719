"""What is kept of one piece of work, training or a prediction: a killed process goes on where it was."""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError
from secagg.hazmat.framing import digest
from secagg.names import RandomSource
from secagg.terms import Digest
from secagg.vertical.report import Report
from silo.storage import StateFault
from silo.vertical.store import FileCheckpoints, Files
from silo.vertical.table import OwnTable

T = TypeVar("T")


class Begun(msgspec.Struct, frozen=True):
    """What it was begun with: digests of the job and, under a secret of this file, of this party's table."""

    job: Digest
    secret: Digest
    table: Digest

    def __repr__(self) -> str:
        return "Begun()"


class Aligned(msgspec.Struct, frozen=True):
    """Which rows are one record: this party's, as bytes of int64, and the digest of the order."""

    rows: bytes
    digest: Digest

    def __repr__(self) -> str:
        return "Aligned()"

    @classmethod
    def of(cls, rows: NDArray[np.int64], order: bytes) -> Aligned:
        """Return what is to be kept of an alignment."""
        return cls(rows.astype("<i8").tobytes(), order)

    @property
    def places(self) -> NDArray[np.int64]:
        """The rows, int64, shape (count,)."""
        return np.frombuffer(self.rows, "<i8")


class ModelPart(msgspec.Struct, frozen=True, kw_only=True):
    """This party's part of a model, and what it was trained on: which columns, which and how many records."""

    fit: Digest
    columns: tuple[str, ...]
    alignment: Digest
    count: int
    part: bytes

    def __repr__(self) -> str:
        return "ModelPart()"


class Work:
    """One piece of work.

    Args:
        folder: of its files.

    Attributes:
        files: in it.
    """

    def __init__(self, folder: Path) -> None:
        self.files = Files(folder)

    def begin(self, job: bytes, table: OwnTable, *, random: RandomSource = os.urandom) -> None:
        """Begin, or go on with what was begun with the same job and the same table.

        Until shared records are kept, what was begun with may be corrected: nothing that was said depends on
        it but the intersection, which knows by itself what it was begun with.

        Args:
            job: its digest.
            table: this party's own.
            random: of the secret under which the table's digest is kept.

        Raises:
            ParameterError: shared records are those of another job file.
            InputRefused: they are those of another table.
            StateFault: see ``Files``.
        """
        begun = self._read("begun", Begun)
        if begun is None or self.alignment is None:
            secret = random(32)
            self._keep("begun", Begun(job, secret, table.digest(secret)))
            return
        if begun.job != job:
            raise ParameterError(
                "the job file says something else than when this was begun; put it back, or begin anew with "
                "--again at every party"
            )
        if not hmac.compare_digest(begun.table, table.digest(begun.secret)):
            raise InputRefused(
                "table",
                "the table holds something else than when this was begun: other rows, values or columns; "
                "give the one from then, or begin anew with --again at every party",
            )

    @property
    def checkpoints(self) -> FileCheckpoints:
        """How far training is."""
        return FileCheckpoints(self.files.folder / "steps")

    @property
    def session(self) -> Path:
        """Folder of the intersection, while it is under way."""
        return self.files.folder / "intersection"

    @property
    def intersection_is_open(self) -> bool:
        """Whether a party may be without what came of it."""
        return self.session.exists()

    def forget_intersection(self) -> None:
        """Take away what was kept of the intersection: every party has what came of it."""
        Files(self.session).forget()

    @property
    def alignment(self) -> Aligned | None:
        """Which rows are one record; None before that is known."""
        return self._read("alignment", Aligned)

    @alignment.setter
    def alignment(self, aligned: Aligned) -> None:
        self._keep("alignment", aligned)

    @property
    def part(self) -> ModelPart | None:
        """This party's part of the model; None before training ended."""
        return self._read("part", ModelPart)

    @part.setter
    def part(self, part: ModelPart) -> None:
        self._keep("part", part)

    @property
    def report(self) -> Report | None:
        """Who saw what; None before the end."""
        return self._read("report", Report)

    @report.setter
    def report(self, report: Report) -> None:
        self._keep("report", report)

    def writes(self, out: Path) -> None:
        """Keep that this work writes to ``out``: what is there from now on is its own."""
        self.files.keep("out", os.fsencode(out.absolute()))

    def has_written(self, out: Path) -> bool:
        """Whether what is at ``out``, if anything, may be of this work and be replaced by it."""
        return self.files.read("out") == os.fsencode(out.absolute())

    @property
    def done(self) -> bool:
        """Whether all parties have told that what came out is on their disks."""
        return self.files.read("done") is not None

    def end(self) -> None:
        """Keep that it is done."""
        self.files.keep("done", b"")

    def _keep(self, name: str, value: object) -> None:
        self.files.keep(name, msgspec.msgpack.encode(value))

    def _read(self, name: str, kind: type[T]) -> T | None:
        content = self.files.read(name)
        if content is None:
            return None
        try:
            return msgspec.msgpack.decode(content, type=kind)
        except msgspec.MsgspecError:  # Whole, but not what this version writes; its text may quote values.
            raise StateFault(
                f"{self.files.folder / name} is of another version; begin anew with --again at every party"
            ) from None


def fit_of(job: bytes, alignment: bytes) -> bytes:
    """Return the name of a fit, 32 bytes, the same at all parties of it and at no other."""
    return digest("vertical fit", job, alignment)
