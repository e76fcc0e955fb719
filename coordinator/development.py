"""The folders of a whole federation, made in one place: for demonstrations, tests and a first look.

One place has made all keys, so nothing here protects anybody from whoever ran it. In a real federation each
silo makes its own keys, and its people compare the others' fingerprints before they pin a roster.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.authority import Authority, Issued, private_pem, write_new, writing
from secagg.address import split_address
from secagg.errors import ParameterError
from secagg.hazmat.identity import fingerprint
from secagg.names import SiloId
from secagg.policy import Policy
from secagg.roster import Roster
from secagg.roster_file import write_roster

Scalar: TypeAlias = str | int | float | bool

_README = """\
A federation for development
============================

One place has made all keys of this federation: those of every silo, of the coordinator and of the authority.
Whoever ran it could have kept them. Use it to try things out, never with data that must stay private.

  authority/     signs certificates; fingerprint
                 {authority}
  coordinator/   coordinator.toml
  silos/<name>/  silo.toml; the identity of each silo:
{silos}
  scientist/     client.toml
  operator/      client.toml

Certificates are valid for 90 days, the authority for a year.
"""


def write_development_federation(
    folder: Path,
    silos: Sequence[SiloId],
    *,
    federation: str = "development",
    hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    listen: str = "127.0.0.1:7443",
    policy: Policy | None = None,
    apps: Mapping[str, str] | None = None,
    data: str = "data",
    arguments: Mapping[SiloId, Mapping[str, Scalar]] | None = None,
    now: datetime | None = None,
) -> Roster:
    """Make an authority, keys, certificates and configuration files for a federation on one machine.

    For development alone: one place makes all keys.

    Args:
        folder: is made; nothing may be there yet but an empty folder.
        silos: names, in roster order.
        federation: its name.
        hosts: names and addresses by which the coordinator is dialled.
        listen: ``host:port``; silos dial the host if it is one of ``hosts``, else the first of these.
        policy: every silo's floors; None for ``Policy()``.
        apps: approved training code, import path -> hash of its source; the same at every silo.
        data: name of each silo's data set.
        arguments: silo -> keyword arguments of the app's function.
        now: when certificates are made; None for the clock's time.

    Returns:
        The roster that every party has pinned.

    Raises:
        ParameterError: a name, host or address that cannot be one.
        EnvironmentFault: something is there already, or cannot be written.

    Guarantees:
        All of the folder is there, or nothing.
        Every private key is its owner's alone, and each silo has no key but its own.
    """
    authority = Authority.create(f"{federation} development authority"[:64], now=now)
    coordinator = authority.issue_coordinator(federation, hosts, now=now)
    host, port = split_address(listen)
    dialled = host if host in hosts else hosts[0]
    address = f"[{dialled}]:{port}" if ":" in dialled else f"{dialled}:{port}"
    for silo in silos:
        if silo in {".", ".."}:  # Names by the roster's rules.
            raise ParameterError(f"a silo named {silo!r} has no folder of its own")
    identities = {silo: Ed25519PrivateKey.generate() for silo in silos}
    roster = Roster(tuple((silo, identities[silo].public_key().public_bytes_raw()) for silo in silos))

    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        authority.save(building / "authority")
        _party(building / "coordinator", "coordinator", authority, coordinator, roster)
        _text(building / "coordinator" / "coordinator.toml", _coordinator_toml(federation, listen))
        for silo in silos:
            home = building / "silos" / silo
            _party(home, "silo", authority, authority.issue_silo(silo, now=now), roster)
            write_new(home / "identity.pem", private_pem(identities[silo]), private=True)
            given = (arguments or {}).get(silo, {})
            text = _silo_toml(silo, address, policy or Policy(), apps or {}, data, given)
            _text(home / "silo.toml", text)
        for role in ("scientist", "operator"):
            person = authority.issue_person(role, role, now=now)
            _party(building / role, role, authority, person, roster)
            _text(building / role / "client.toml", _client_toml(role, address))
        prints = "\n".join(f"                 {silo}  {fingerprint(key)}" for silo, key in roster.members)
        _text(building / "README.txt", _README.format(authority=authority.fingerprint, silos=prints))
        with writing(folder):
            building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)  # Nothing is left of it once it has its name.
    return roster


def _party(folder: Path, stem: str, authority: Authority, issued: Issued, roster: Roster) -> None:
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True)
    write_new(folder / "authority.pem", authority.certificate)
    write_new(folder / f"{stem}.pem", issued.certificate)
    write_new(folder / f"{stem}.key", issued.key, private=True)
    _text(folder / "roster.toml", write_roster(roster))


def _text(path: Path, text: str) -> None:
    write_new(path, text.encode())


# --- TOML ---------------------------------------------------------------------------------------------------


def _coordinator_toml(federation: str, listen: str) -> str:
    return (
        "# For development: one place has made all keys of this federation.\n"
        f"federation = {_value(federation)}\nlisten = {_value(listen)}\n"
        'state = "state"  # the only folder that is written to\nroster = "roster.toml"\n\n'
        f"{_tls('coordinator')}"
        "revoked = []  # fingerprints of certificates that are no longer accepted\n"
    )


def _silo_toml(
    silo: SiloId,
    address: str,
    policy: Policy,
    apps: Mapping[str, str],
    data: str,
    arguments: Mapping[str, Scalar],
) -> str:
    text = (
        "# For development: one place has made all keys of this federation.\n"
        f"name = {_value(silo)}\ncoordinator = {_value(address)}\n"
        'state = "state"\nledger = "ledger"  # keeps what the data spent; these two alone are written to\n'
        'roster = "roster.toml"\n'
        f'identity = "identity.pem"\n\n{_tls("silo")}\n'
        "[policy]  # floors that the coordinator cannot widen\n"
    )
    for field in fields(policy):
        if (floor := getattr(policy, field.name)) is not None:
            text += f"{field.name} = {_value(floor)}\n"
    text += "\n[policy.apps]  # training code that may run here, by the hash of its source\n"
    text += "".join(f"{_value(app)} = {_value(source)}\n" for app, source in apps.items())
    text += f"\n[data]\nname = {_value(data)}\n\n[data.arguments]\n"
    return text + "".join(f"{_value(name)} = {_value(given)}\n" for name, given in arguments.items())


def _client_toml(stem: str, address: str) -> str:
    return f'coordinator = {_value(address)}\nroster = "roster.toml"\n\n{_tls(stem)}'


def _tls(stem: str) -> str:
    return f'[tls]\nauthority = "authority.pem"\ncertificate = "{stem}.pem"\nkey = "{stem}.key"\n'


def _value(value: Scalar | frozenset[str]) -> str:
    match value:
        case bool() | int():
            return json.dumps(value)
        case float():
            return repr(value)  # Also "inf" and "nan" are TOML.
        case str():
            # A JSON text is a TOML text, but for this one character.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return json.dumps(sorted(value))
