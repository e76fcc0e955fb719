"""What a silo keeps of one intersection until it ends, so that a killed one goes on to the same result.

The seed of everything that this party draws, what it began with, what partners said, and computed powers: all
of it secret, in a folder of this user alone, and gone when the session ends or is abandoned.
"""

from __future__ import annotations

import hmac
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import msgspec
import numpy as np

from secagg.errors import FaultySilo, InputRefused, ParameterError
from secagg.names import RandomSource, SiloId
from secagg.psi.agreement import Settings
from secagg.psi.draws import SEED_SIZE, Seeded
from secagg.psi.identifiers import Identifiers
from secagg.roster import check_silo
from secagg.terms import Digest
from silo.storage import InUse, StateFault, lock, make_folder, not_written, replace_file, sync_folder
from silo.vector_file import VectorFile

FOLDER = "psi"


class _Kept(msgspec.Struct, frozen=True):
    seed: Annotated[bytes, msgspec.Meta(min_length=SEED_SIZE, max_length=SEED_SIZE)]
    settings: Settings
    records: Digest
    proposals: dict[str, Digest] = {}
    said: dict[str, tuple[Digest, ...]] = {}
    done: bool = False

    def __repr__(self) -> str:
        return "_Kept()"


class _Bucket(msgspec.Struct, frozen=True):
    name: Digest


class Session:
    """One intersection under way: a new one, or one that goes on. It is a ``Transcript`` and ``Buckets``.

    Args:
        state: the silo's state folder.
        name: that the operators agreed on.
        settings: what this party is started with.
        identifiers: of this party.
        source: what they were read from, for errors.
        anew: what every party types to begin anew, for errors; None for that of ``silo psi``.
        random: of the seed.

    Raises:
        InputRefused: it was begun with other identifiers.
        ParameterError: it was begun with other settings, or the name is none.
        StateFault: it is damaged, another process has it, or it cannot be written.

    Guarantees:
        What was kept is there after a crash at any later moment, until ``end``.
        Nobody but this user may read it.
    """

    def __init__(
        self,
        state: Path,
        name: str,
        *,
        settings: Settings,
        identifiers: Identifiers,
        source: Path,
        anew: str | None = None,
        random: RandomSource = os.urandom,
    ) -> None:
        self.name = name
        self._anew = f"silo psi {name} --abandon" if anew is None else anew
        self._folder = folder_of(state, name)
        self._file = self._folder / "session"
        self._lock = _locked(self._folder, name)
        try:
            found = self._read()
            seed = random(SEED_SIZE) if found is None else found.seed
            new = _Kept(seed, settings, records := identifiers.digest(seed))
            if found is None or (not found.proposals and found != new):
                # Before partners are met nothing is said under the seed: what was typed may be corrected.
                found = new
                self._write(found)
            self._kept = found
            again = f"or type at every party: {self._anew}"
            if found.settings != settings:
                raise ParameterError(
                    f"{name} was begun with other parties or options, or under another policy. Give the "
                    f"same, {again}"
                )
            if not hmac.compare_digest(found.records, records):
                raise InputRefused(
                    "identifier",
                    f"{source} has not the identifiers any more with which {name} was begun. Put back the "
                    f"file as it was, {again}",
                )
        except BaseException:
            self.close()
            raise

    # --- what is drawn -------------------------------------------------------------------------------------

    def draws(self) -> Seeded:
        """Return what this party draws, from the beginning."""
        return Seeded(self._kept.seed)

    @property
    def nonce(self) -> bytes:
        """What this party adds to the name of the session, 32 bytes."""
        return self.draws()("nonce")(32)

    # --- partners ------------------------------------------------------------------------------------------

    def meet(self, proposals: Mapping[SiloId, bytes]) -> None:
        """Keep what was proposed, or see that it is what was proposed before: one session has one terms.

        Args:
            proposals: of ``Agreed``.

        Raises:
            FaultySilo: a partner began anew, or with something else.
            StateFault: it cannot be written.
        """
        for partner, known in self._kept.proposals.items():
            if not hmac.compare_digest(known, proposals[partner]):
                raise FaultySilo(
                    partner,
                    f"it begins {self.name} anew or otherwise, and here it goes on. Type at every party: "
                    f"{self._anew}; then begin again",
                )
        if not self._kept.proposals:
            self._change(proposals=dict(proposals))

    def said(self, partner: SiloId, number: int) -> bytes | None:
        """See ``Transcript``."""
        said = self._kept.said.get(partner, ())
        return said[number] if number < len(said) else None

    def heard(self, partner: SiloId, number: int, digest: bytes) -> None:
        """See ``Transcript``."""
        said = self._kept.said.get(partner, ())[:number]
        self._change(said=self._kept.said | {partner: (*said, digest)})

    # --- powers --------------------------------------------------------------------------------------------

    def load(self, name: bytes) -> bytes | None:
        """See ``Buckets``."""
        try:
            found = self._bucket(name).read()
        except OSError as error:
            raise StateFault(f"{self._folder} cannot be read: {error.strerror}") from error
        return None if found is None or found[0].name != name else bytes(found[1])

    def keep(self, name: bytes, powers: bytes) -> None:
        """See ``Buckets``."""
        try:
            make_folder(self._folder / "powers")
            self._bucket(name).write(_Bucket(name), [np.frombuffer(powers, np.uint8)])
        except OSError as error:
            raise not_written(self._folder, error) from error

    def _bucket(self, name: bytes) -> VectorFile[_Bucket]:
        return VectorFile(self._folder / "powers" / name.hex(), _Bucket)

    # --- its end -------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether this party has its result; others may still need what it says."""
        return self._kept.done

    def finish(self) -> None:
        """Keep that this party has its result.

        Raises:
            StateFault: it cannot be written.
        """
        if not self._kept.done:
            self._change(done=True)

    def end(self) -> None:
        """Take away all that was kept: every party has its result.

        Raises:
            StateFault: it cannot be taken away.
        """
        _remove(self._folder)
        self.close()

    def close(self) -> None:
        """Let other processes have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the file ------------------------------------------------------------------------------------------

    def _read(self) -> _Kept | None:
        try:
            return msgspec.msgpack.decode(self._file.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateFault(f"{self._file} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError:
            raise StateFault(
                f"{self._file} is damaged, and {self.name} cannot go on. Type at every party: {self._anew}"
            ) from None

    def _change(self, **changes: object) -> None:
        changed = msgspec.structs.replace(self._kept, **changes)
        self._write(changed)
        self._kept = changed

    def _write(self, kept: _Kept) -> None:
        try:
            replace_file(self._file, msgspec.msgpack.encode(kept))
        except OSError as error:
            raise not_written(self._folder, error) from error


def folder_of(state: Path, name: str) -> Path:
    """Return where the session ``name`` is kept.

    Raises:
        ParameterError: no session can have that name.
    """
    try:
        check_silo(name)
    except ParameterError:
        name = "."
    if name in {".", ".."}:
        raise ParameterError("a session's name is 1 to 64 of letters, digits, dot, underscore, hyphen")
    return state / FOLDER / name


def abandon(state: Path, name: str) -> None:
    """Take away what is kept of a session, with its secrets. What partners asked about stays counted.

    Raises:
        ParameterError: there is no such session.
        StateFault: another process has it, or it cannot be taken away.
    """
    folder = folder_of(state, name)
    if not folder.exists():
        raise ParameterError(f"there is no session {name} to abandon in {state / FOLDER}")
    file = _locked(folder, name)
    try:
        _remove(folder)
    finally:
        os.close(file)


def _locked(folder: Path, name: str) -> int:
    while True:
        try:
            make_folder(folder)
        except OSError as error:
            raise not_written(folder, error) from error
        try:
            return lock(folder, _lock_in(folder))
        except FileNotFoundError:
            continue  # Whoever had it took the folder away meanwhile.
        except InUse as running:
            raise StateFault(f"{name} is under way in process {running.pid}") from None
        except OSError as error:
            raise not_written(folder, error) from error


def _lock_in(folder: Path) -> Path:
    return folder / "lock"


def _remove(folder: Path) -> None:
    try:
        # The seed goes first: without it the rest says nothing that can be used.
        with suppress(FileNotFoundError):
            (folder / "session").unlink()
        sync_folder(folder)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != _lock_in(folder):
                path.unlink()
        # The lock goes last: who comes after it finds nothing that is taken from under them.
        _lock_in(folder).unlink()
        with suppress(OSError):
            folder.rmdir()  # Or it is theirs by now.
        sync_folder(folder.parent)
    except OSError as error:
        raise StateFault(f"{folder} cannot be taken away: {error.strerror}") from error
