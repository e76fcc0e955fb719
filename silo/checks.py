"""What must be right before a silo takes part, one after the other, each with what to do if it is not."""

from __future__ import annotations

import hmac
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secagg import __version__
from secagg.errors import EnvironmentFault, PolicyRefused, SecaggError
from secagg.hazmat.identity import fingerprint, grouped
from secagg.keys.document import SCHEMES, KeyDocument
from secagg.keys.secret import check_installed
from secagg.link.frames import PROTOCOL, Probe, encode_link
from secagg.terms import KeyScheme
from silo.app import source_hash
from silo.config import SiloConfig
from silo.journal import Journal
from silo.storage import InUse
from silo.tls import dialling

SECONDS = 10.0
SOON = 14
"""Days before a certificate ends in which that is said."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of what was looked at.
        text: what is there, or what is wrong and what to do.
        error: None if it is as it should be.
    """

    name: str
    text: str
    error: SecaggError | None = None


def findings(path: Path) -> Iterator[Finding]:
    """Check everything that ``path``, a ``silo.toml``, names; later checks need a readable file.

    Guarantees:
        Nothing is written that is there afterwards, and no roster is pinned.
    """
    read = _finding("configuration", lambda: (SiloConfig.load(path), str(path))[1])
    yield read
    if read.error is not None:
        return
    config = SiloConfig.load(path)
    yield _finding("identity, roster", lambda: _member(config))
    yield _finding("certificates", lambda: _certificates(config))
    yield Finding("clock", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; compare it with a watch")
    if not config.policy.apps:
        yield Finding("apps", "none is approved; `silo app hash package.module:function` prints a hash")
    for app, approved in config.policy.apps.items():
        yield _finding(f"app {app}", lambda app=app, approved=approved: _app(app, approved))  # type: ignore[misc]
    yield _finding("state", lambda: _state(config))
    yield _finding("ledger", lambda: _ledger(config))
    encrypted = [scheme for scheme in SCHEMES if scheme in config.policy.policy().schemes]
    if encrypted:
        yield _finding("keys", lambda: _keys(config, encrypted))
    yield _finding("intersections", lambda: _intersections(config))
    yield _finding("vertical jobs", lambda: _vertical(config))
    yield _finding("coordinator", lambda: _coordinator(config))


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, check())
    except SecaggError as error:
        return Finding(name, str(error), error)


def _member(config: SiloConfig) -> str:
    identity, roster = config.member()
    return (
        f"{config.name} is {fingerprint(identity.public)}, one of {roster.n} silos; "
        f"the roster is {grouped(roster.digest[:16])}"
    )


def _certificates(config: SiloConfig) -> str:
    end = dialling(config.tls, name=config.name).until
    days = (end - datetime.now(UTC)).days
    soon = "; ask for a new one now" if days < SOON else ""
    return f"signed by {config.tls.authority.name}, valid until {end:%Y-%m-%d}, {days} days{soon}"


def _app(app: str, approved: str) -> str:
    found = source_hash(app)
    if not hmac.compare_digest(found, approved):
        raise PolicyRefused(
            "app",
            f'its source is {found}, not the approved one; read what changed, then write "{app}" = "{found}"',
        )
    return found


def _state(config: SiloConfig) -> str:
    folder = config.state
    if not (folder / "journal.sqlite3").exists():
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        _writable(place)
        return f"{folder} is new; `silo run` pins the roster in it"
    _, roster = config.member()
    try:
        with Journal(folder, roster=roster.digest) as journal:
            return f"{folder} has {len(journal.records)} records and is writable"
    except InUse as running:
        return f"{folder} is in use by process {running.pid}"


def _ledger(config: SiloConfig) -> str:
    from silo.ledger_view import is_new, read_ledger, summary

    folder = config.ledger_folder
    if is_new(config):
        _writable(next(parent for parent in (folder, *folder.parents) if parent.exists()))
        return f"none of data set {config.data.name} yet; `silo run` makes it in {folder}"
    return summary(read_ledger(config)[1])


def _keys(config: SiloConfig, schemes: Sequence[KeyScheme]) -> str:
    from silo.key_files import KeyFiles

    for scheme in schemes:
        check_installed(scheme)
    _, roster = config.member()
    last = {
        key.document.scheme: key.document
        for key in KeyFiles(config.state / "keys").read()
        if key.document.roster == roster.digest
    }
    return ", ".join(f"{scheme} {_held(last.get(scheme))}" for scheme in schemes)


def _intersections(config: SiloConfig) -> str:
    from silo.psi.run import check

    return check(config)


def _vertical(config: SiloConfig) -> str:
    own = config.vertical
    if strangers := own.scores_to - set(config.members().silos):
        raise EnvironmentFault(f"[vertical] scores_to has {', '.join(sorted(strangers))}, not in the roster")
    given = ", ".join(name for name in type(own).model_fields if name in own.model_fields_set)
    floors = f"its own {given}" if given else "no floors but the defaults of a job file"
    return f"with {floors}; may be learned: {', '.join(sorted(own.learning)) or 'nothing'}"


def _held(document: KeyDocument | None) -> str:
    if document is None:
        return "none here"
    until = datetime.fromtimestamp(document.expires, UTC)
    over = "; make a new one" if until < datetime.now(UTC) else ""
    return f"{document.key.hex()[:16]} until {until:%Y-%m-%d}{over}"


def _writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            os.fsync(file.fileno())
    except OSError as error:
        raise EnvironmentFault(f"{folder} cannot be written ({error.strerror}); make it writable") from error


def _coordinator(config: SiloConfig) -> str:
    import grpc

    from silo.client import CONNECT, OPTIONS, refusal, shown

    _, roster = config.member()
    probe = encode_link(Probe(PROTOCOL, __version__, roster.digest))
    credentials = dialling(config.tls, name=config.name).credentials
    with grpc.secure_channel(config.coordinator, credentials, options=OPTIONS) as channel:
        connect: Any = channel.stream_stream  # Its stubs demand what has defaults.
        try:
            for _ in connect(CONNECT)(iter([probe]), timeout=SECONDS):
                pass  # A coordinator says nothing: it ends the stream.
        except grpc.RpcError as error:
            code, details = error.code(), shown(error.details())
            text = f"answers, but is no coordinator of this version ({code.name}: {details})"
            if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                text = (
                    "does not answer; is it up, is the port open from here, does it know this silo's "
                    f"authority? ({details})"
                )
            raise refusal(config.coordinator, code, details) or EnvironmentFault(
                f"{config.coordinator} {text}"
            ) from None
    return f"{config.coordinator} would let this silo in"
