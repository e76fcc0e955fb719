"""Attack ``mtls_matrix``: call as somebody else, with a certificate that is not right, or over older TLS.

Over real connections: the one party that each service lets in, and all that it does not; a server that is
not the coordinator hears nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import ANY

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from coordinator import tls as coordinator_tls
from coordinator.authority import Authority, Issued
from coordinator.config import ServerTls
from coordinator.control import CONTROL, Ask, ControlService, encode
from coordinator.lines import Lines
from coordinator.service import SiloService
from coordinator.tls import caller
from secagg.certificates import Caller, Role
from secagg.errors import EnvironmentFault, TrustError
from secagg.hazmat.identity import IdentityKey
from secagg.link.frames import PROTOCOL, Held, Hello, encode_link
from secagg.link.options import CHANNEL_OPTIONS, SERVER_OPTIONS
from secagg.operator_tables import Tls
from secagg.roster import Roster
from silo import tls as silo_tls
from silo.client import CONNECT

import grpc  # isort: skip - after tls, which sets what it reads

AUTHORITY = Authority.create("loopback")
OTHER = Authority.create("loopback")
COORDINATOR = AUTHORITY.issue_coordinator("f", ["127.0.0.1"])
AGAIN = AUTHORITY.issue_coordinator("f", ["127.0.0.1"])  # Not loaded by our own code.
NORTH = AUTHORITY.issue_silo("north")
LONG_AGO = datetime.now(UTC) - timedelta(days=200)
ROSTER = Roster.of({name: IdentityKey.generate().public for name in ("north", "south", "west")})
HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]
GRPCIO = tuple(int(part) for part in grpc.__version__.split(".")[:2])


@dataclass(frozen=True)
class Door:
    """A server that says who is calling, or why it will not hear them."""

    served: Issued = COORDINATOR
    authority: bytes = AUTHORITY.certificate
    revoked: frozenset[str] = frozenset()
    roles: tuple[Role, ...] = ("silo",)
    refused: list[str] = field(default_factory=list)

    async def _who(self, _: bytes, context: Any) -> bytes:
        try:
            who = caller(context, roles=self.roles, revoked=self.revoked, roster=ROSTER)
        except TrustError as error:
            self.refused.append(str(error))
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise
        (version,) = context.auth_context().get("ssl_tls_version", [b"unsaid"])
        return f"{who.uri} {who.fingerprint} {version.decode()}".encode()

    @asynccontextmanager
    async def open(self, folder: Path) -> AsyncIterator[int]:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        handler = grpc.unary_unary_rpc_method_handler(self._who)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("door", {"Who": handler}),))
        if self.served is COORDINATOR:
            files = ServerTls(**written(folder, COORDINATOR, self.authority), revoked=self.revoked)
            credentials = coordinator_tls.server_credentials(files, federation="f")
        else:  # Ours would not load them; a stranger's server would.
            credentials = grpc.ssl_server_credentials(
                [(self.served.key, self.served.certificate)], self.authority, require_client_auth=True
            )
        port = server.add_secure_port(f"{HOST}:0", credentials)
        await server.start()
        try:
            yield port
        finally:
            await server.stop(None)


def written(folder: Path, issued: Issued, authority: bytes = AUTHORITY.certificate) -> dict[str, Path]:
    """Write a party's files and return their places."""
    home = folder / issued.caller.fingerprint[:8]
    home.mkdir(exist_ok=True)
    files = {"authority": authority, "certificate": issued.certificate, "key": issued.key}
    for name, content in files.items():
        (home / name).touch(0o600)
        (home / name).write_bytes(content)
    return {name: home / name for name in files}


def raw(issued: Issued | None, authority: bytes = AUTHORITY.certificate) -> grpc.ChannelCredentials:
    """Return credentials that nothing of ours has looked at."""
    if issued is None:
        return grpc.ssl_channel_credentials(authority)
    return grpc.ssl_channel_credentials(authority, issued.key, issued.certificate)


async def ask(port: int, credentials: grpc.ChannelCredentials, host: str = HOST) -> str:
    async with grpc.aio.secure_channel(f"{host}:{port}", credentials, CHANNEL_OPTIONS) as channel:
        answer = await channel.unary_unary("/door/Who", None, None)(b"", timeout=30)
    return bytes(answer).decode()


def outcome(
    folder: Path, door: Door, credentials: grpc.ChannelCredentials, host: str = HOST
) -> tuple[grpc.StatusCode, str]:
    async def run() -> tuple[grpc.StatusCode, str]:
        async with door.open(folder) as port:
            try:
                return grpc.StatusCode.OK, await ask(port, credentials, host)
            except grpc.aio.AioRpcError as error:
                return error.code(), error.details() or ""

    return asyncio.run(run())


def refused_in_handshake(folder: Path, door: Door, credentials: grpc.ChannelCredentials) -> None:
    code, _ = outcome(folder, door, credentials)
    assert code in UNHEARD
    assert not door.refused  # No call came as far as our own code.


# --- let in -------------------------------------------------------------------------------------------------


def test_the_right_silo_is_let_in_under_its_own_name_over_tls_1_3(tmp_path: Path) -> None:
    credentials = silo_tls.dialling(Tls(**written(tmp_path, NORTH)), name="north").credentials
    code, answer = outcome(tmp_path, Door(), credentials)
    assert code is grpc.StatusCode.OK, answer
    # grpcio says the version from 1.85 on.
    version = "TLSv1.3" if GRPCIO >= (1, 85) else "unsaid"
    assert answer == f"secagg:silo:north {NORTH.caller.fingerprint} {version}"


@pytest.mark.parametrize("role", ["scientist", "operator"])
def test_people_are_let_in_where_their_role_may_call(tmp_path: Path, role: Any) -> None:
    person = AUTHORITY.issue_person(role, "ada")
    credentials = coordinator_tls.channel_credentials(Tls(**written(tmp_path, person)))
    code, answer = outcome(tmp_path, Door(roles=("scientist", "operator")), credentials)
    assert code is grpc.StatusCode.OK, answer
    assert answer.startswith(f"secagg:{role}:ada ")


# --- kept out by the handshake ------------------------------------------------------------------------------


def handshake(
    port: int, folder: Path, *, newest: ssl.TLSVersion, oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> str | None:
    files = written(folder, NORTH)
    context = ssl.create_default_context(cafile=str(files["authority"]))
    context.load_cert_chain(files["certificate"], files["key"])
    context.minimum_version, context.maximum_version = oldest, newest
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((HOST, port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as encrypted,
    ):
        return encrypted.version()


@pytest.mark.parametrize("served", [COORDINATOR, AGAIN], ids=["ours", "raw"])
def test_tls_1_2_is_refused_to_a_client_with_the_right_certificate(tmp_path: Path, served: Issued) -> None:
    async def run() -> None:
        async with Door(served).open(tmp_path) as port:
            new = await asyncio.to_thread(handshake, port, tmp_path, newest=ssl.TLSVersion.TLSv1_3)
            assert new == "TLSv1.3"
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(handshake, port, tmp_path, newest=ssl.TLSVersion.TLSv1_2)

    asyncio.run(run())


def test_a_client_without_a_certificate_is_refused(tmp_path: Path) -> None:
    refused_in_handshake(tmp_path, Door(), raw(None))


def test_a_client_of_another_authority_is_refused(tmp_path: Path) -> None:
    refused_in_handshake(tmp_path, Door(), raw(OTHER.issue_silo("north")))
    stranger = trustme.CA().issue_cert("north")
    credentials = grpc.ssl_channel_credentials(
        AUTHORITY.certificate, stranger.private_key_pem.bytes(), stranger.cert_chain_pems[0].bytes()
    )
    refused_in_handshake(tmp_path, Door(), credentials)


def test_an_expired_client_is_refused(tmp_path: Path) -> None:
    refused_in_handshake(tmp_path, Door(), raw(AUTHORITY.issue_silo("north", now=LONG_AGO)))


def test_a_client_from_the_future_is_refused(tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(days=2)
    refused_in_handshake(tmp_path, Door(), raw(AUTHORITY.issue_silo("north", now=soon)))


def test_the_coordinators_certificate_does_not_call(tmp_path: Path) -> None:
    refused_in_handshake(tmp_path, Door(), raw(COORDINATOR))


def test_a_client_without_tls_is_refused(tmp_path: Path) -> None:
    async def run() -> grpc.StatusCode:
        async with Door().open(tmp_path) as port, grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/door/Who", None, None)(b"", timeout=30)
            code: grpc.StatusCode = caught.value.code()
            return code

    assert asyncio.run(run()) in UNHEARD


# --- a server that the client does not believe --------------------------------------------------------------


@pytest.mark.parametrize(
    "served",
    [
        pytest.param(AUTHORITY.issue_silo("north"), id="a silo's certificate"),
        pytest.param(AUTHORITY.issue_person("operator", "ops"), id="an operator's certificate"),
        pytest.param(OTHER.issue_coordinator("f", [HOST]), id="another authority"),
        pytest.param(AUTHORITY.issue_coordinator("f", [HOST], now=LONG_AGO), id="expired"),
        pytest.param(AUTHORITY.issue_coordinator("f", ["127.0.0.2", "localhost"]), id="another host"),
    ],
)
def test_a_server_that_is_not_the_coordinator_hears_nothing(tmp_path: Path, served: Issued) -> None:
    credentials = silo_tls.dialling(Tls(**written(tmp_path, NORTH)), name="north").credentials
    refused_in_handshake(tmp_path, Door(served=served), credentials)


def test_the_same_server_with_the_right_certificate_is_believed(tmp_path: Path) -> None:
    credentials = silo_tls.dialling(Tls(**written(tmp_path, NORTH)), name="north").credentials
    assert outcome(tmp_path, Door(served=AGAIN), credentials)[0] is grpc.StatusCode.OK


# --- kept out by name ---------------------------------------------------------------------------------------


def with_names(*uris: str, host: str | None = None) -> Issued:
    """Return a silo's certificate that the authority signed and that has these names."""
    template = AUTHORITY.issue_silo("north")
    issuer: Any = AUTHORITY._key  # No product code signs such a certificate.
    old, key = x509.load_pem_x509_certificate(template.certificate), load_pem_private_key(template.key, None)
    assert isinstance(issuer, EllipticCurvePrivateKey)
    assert isinstance(key, EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, key.public_key(), 7, old.not_valid_before_utc, old.not_valid_after_utc
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.IPAddress(ip_address(host))] if host is not None else []
    for extension in old.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            value = x509.SubjectAlternativeName(names or [x509.DNSName("north")])
        builder = builder.add_extension(value, extension.critical)
    certificate = builder.sign(issuer, hashes.SHA256())
    return replace(template, certificate=certificate.public_bytes(Encoding.PEM))


@pytest.mark.parametrize(
    ("client", "revoked", "expected"),
    [
        (NORTH, {NORTH.caller.fingerprint}, "the certificate of silo north is revoked"),
        (AUTHORITY.issue_silo("stranger"), set(), "silo stranger is not in the roster"),
        (AUTHORITY.issue_person("scientist", "north"), set(), "scientist north may not make this call"),
        (with_names("secagg:silo:north", "secagg:silo:south"), set(), "has 2 names"),
        (with_names("secagg:silo:north", "secagg:operator:ops"), set(), "has 2 names"),
        (with_names(), set(), "has 0 names"),
        (with_names("secagg:auditor:north"), set(), "has a role or name that there is not"),
    ],
)
def test_a_certificate_of_the_authority_is_not_enough(
    tmp_path: Path, client: Issued, revoked: set[str], expected: str
) -> None:
    door = Door(revoked=frozenset(revoked))
    code, details = outcome(tmp_path, door, raw(client))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert expected in details
    assert door.refused == [details]


def test_one_name_among_other_kinds_is_enough(tmp_path: Path) -> None:
    client = with_names("https://example.org", "secagg:silo:north")
    assert outcome(tmp_path, Door(), raw(client))[0] is grpc.StatusCode.OK


def test_one_revoked_certificate_does_not_keep_out_its_successor(tmp_path: Path) -> None:
    door = Door(revoked=frozenset({NORTH.caller.fingerprint}))
    assert outcome(tmp_path, door, raw(AUTHORITY.issue_silo("north")))[0] is grpc.StatusCode.OK


class Established:
    """A handshake's outcome, for those that our own end never lets happen."""

    def __init__(self, facts: Mapping[str, Iterable[bytes]]) -> None:
        self._facts = facts

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._facts


def test_what_the_handshake_did_not_establish_is_not_assumed() -> None:
    silos: tuple[Role, ...] = ("silo",)
    right: dict[str, list[bytes]] = {"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [NORTH.certificate]}
    assert caller(Established(right), roles=silos, roster=ROSTER) == NORTH.caller
    wrongs: list[tuple[dict[str, list[bytes]], str]] = [
        ({"ssl_tls_version": [b"TLSv1.2"]}, r"not TLS 1\.3"),
        ({"ssl_tls_version": []}, r"not TLS 1\.3"),
        ({"x509_pem_cert": []}, "shows no certificate"),
    ]
    for wrong, expected in wrongs:
        with pytest.raises(TrustError, match=expected):
            caller(Established(right | wrong), roles=silos, roster=ROSTER)
    with pytest.raises(TrustError, match="shows no certificate"):
        caller(Established({}), roles=silos)
    unsaid = {"x509_pem_cert": [NORTH.certificate]}  # By grpcio before 1.85: the cipher list stands alone.
    assert caller(Established(unsaid), roles=silos, roster=ROSTER) == NORTH.caller


# --- before a socket is opened ------------------------------------------------------------------------------


def test_a_silo_sees_before_it_dials_what_is_wrong_with_its_files(tmp_path: Path) -> None:
    def load(issued: Issued, authority: bytes = AUTHORITY.certificate) -> None:
        silo_tls.dialling(Tls(**written(tmp_path, issued, authority)), name="north")

    load(NORTH)
    with pytest.raises(TrustError, match=r"certificate expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC"):
        load(AUTHORITY.issue_silo("north", now=LONG_AGO))
    with pytest.raises(TrustError, match=r"certificate is not signed by .*authority"):
        load(NORTH, OTHER.certificate)
    with pytest.raises(TrustError, match=r"certificate is for silo south, not for silo north"):
        load(AUTHORITY.issue_silo("south"))
    with pytest.raises(TrustError, match=r"certificate is for operator north, not for silo north"):
        load(AUTHORITY.issue_person("operator", "north"))
    with pytest.raises(TrustError, match=r"key is not the key of .*certificate"):
        load(replace(NORTH, key=COORDINATOR.key))
    files = written(tmp_path, NORTH)
    files["certificate"].unlink()
    with pytest.raises(EnvironmentFault, match=r"certificate is not there"):
        silo_tls.dialling(Tls(**files), name="north")
    files = written(tmp_path, NORTH)
    files["key"].chmod(0o644)
    with pytest.raises(EnvironmentFault, match=r"chmod 600"):
        silo_tls.dialling(Tls(**files), name="north")


def test_a_coordinator_sees_before_it_listens_what_is_wrong_with_its_files(tmp_path: Path) -> None:
    def load(issued: Issued, federation: str = "f") -> None:
        files = ServerTls(**written(tmp_path, issued), revoked=frozenset())
        coordinator_tls.server_credentials(files, federation=federation)

    load(COORDINATOR)
    with pytest.raises(TrustError, match="is for coordinator f, not for coordinator g"):
        load(COORDINATOR, "g")
    with pytest.raises(TrustError, match="is for silo north, not for coordinator f"):
        load(NORTH)
    with pytest.raises(TrustError, match="expired on"):
        load(AUTHORITY.issue_coordinator("f", [HOST], now=LONG_AGO))
    with pytest.raises(TrustError, match="is for silo north, not for a scientist or an operator"):
        coordinator_tls.channel_credentials(Tls(**written(tmp_path, NORTH)))


# --- the cipher list ----------------------------------------------------------------------------------------

WATCHED = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_SSL_CIPHER_SUITES"))

sys.meta_path.insert(0, Watch())
import {module}
"""
RELAXED = """
import os, sys
os.environ["GRPC_SSL_CIPHER_SUITES"] = {ciphers!r}
import grpc
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", {test!r}]))
"""
OLD_CIPHERS = "ECDHE-ECDSA-AES128-GCM-SHA256"
SPEAKING = sorted(
    f"{package}.{path.stem}"
    for package in ("silo", "coordinator")
    for path in (ROOT / package).glob("*.py")
    if re.search(r"^\s*(import|from) grpc", path.read_text(encoding="utf-8"), re.MULTILINE)
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", SPEAKING)
def test_the_cipher_list_is_set_before_grpc_is_loaded(module: str) -> None:
    done = python(WATCHED.format(module=module))
    assert done.stdout.split() == ["ECDHE-RSA-AES256-GCM-SHA384"], done.stderr


@pytest.mark.parametrize(("served", "expected"), [("raw", "DID NOT RAISE"), ("ours", "UsageError")])
def test_where_grpc_came_first_tls_1_2_would_be_served_and_ours_does_not_serve(
    served: str, expected: str
) -> None:
    name = test_tls_1_2_is_refused_to_a_client_with_the_right_certificate.__name__
    done = python(RELAXED.format(ciphers=OLD_CIPHERS, test=f"{__file__}::{name}[{served}]"))
    assert done.returncode == 1, done.stdout
    assert expected in done.stdout


def test_both_ends_are_among_the_modules_that_speak() -> None:
    assert {"silo.tls", "coordinator.tls"} <= set(SPEAKING)


# --- the matrix ---------------------------------------------------------------------------------------------

SOON = datetime.now(UTC) + timedelta(days=2)
# The handshake failed: no call came as far as our own code, which answers neither. Which of the two gRPC says
# depends on whether the connection broke before or after the call was written.
UNHEARD = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
REFUSED = grpc.StatusCode.PERMISSION_DENIED
NOT_THERE = {
    "no certificate": raw(None),
    "another authority": raw(OTHER.issue_silo("north")),
    "an expired certificate": raw(AUTHORITY.issue_silo("north", now=LONG_AGO)),
    "a certificate that is not valid yet": raw(AUTHORITY.issue_silo("north", now=SOON)),
    "the coordinator's certificate": raw(COORDINATOR),
}
REVOKED, REVOKED_PERSON = AUTHORITY.issue_silo("north"), AUTHORITY.issue_person("scientist", "north")
SCIENTIST, OPERATOR = (
    AUTHORITY.issue_person("scientist", "north"),
    AUTHORITY.issue_person("operator", "north"),
)
TO_SILOS = {
    "a revoked certificate": raw(REVOKED),
    "a silo that is not in the roster": raw(AUTHORITY.issue_silo("stranger")),
    "a scientist": raw(SCIENTIST),
    "an operator": raw(OPERATOR),
    "two names": raw(with_names("secagg:silo:north", "secagg:silo:south")),
    "no name": raw(with_names()),
    "a role that there is not": raw(with_names("secagg:auditor:north")),
}
TO_CONTROL = {
    "a silo at the control service": raw(NORTH),
    "a revoked scientist": raw(REVOKED_PERSON),
}


class NoRuns:
    """What the control service is asked about here."""

    def all(self) -> tuple[()]:
        return ()


@asynccontextmanager
async def both_services(folder: Path) -> AsyncIterator[int]:
    """Serve silos and people on one port, with the credentials that the product loads."""
    revoked = frozenset({REVOKED.caller.fingerprint, REVOKED_PERSON.caller.fingerprint})
    files = ServerTls(**written(folder, COORDINATOR), revoked=revoked)
    lines = Lines(ROSTER, folder)
    silos = SiloService(lines, revoked=revoked)
    people = ControlService(
        cast(Any, NoRuns()), cast(Any, None), cast(Any, None), federation="f", revoked=revoked
    )
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((silos.handler(), people.handler()))
    port = server.add_secure_port(f"{HOST}:0", coordinator_tls.server_credentials(files, federation="f"))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
        lines.close()


async def as_silo(port: int, credentials: grpc.ChannelCredentials) -> grpc.StatusCode:
    """Say Hello on a silo's stream; return how it is answered."""
    hello = Hello(PROTOCOL, "0.1.0", ROSTER.digest, bytes(16), None, Held())

    def say() -> grpc.StatusCode:
        # Not by grpc.aio: a write that comes after the refusal hides there the code that was given.
        with grpc.secure_channel(f"{HOST}:{port}", credentials, CHANNEL_OPTIONS) as channel:
            streams: Any = channel.stream_stream  # Its stubs know no call without serialisers.
            call = streams(CONNECT)(iter([encode_link(hello)]), timeout=30)
            try:
                next(call)
            except grpc.RpcError as error:
                return cast(grpc.StatusCode, cast(Any, error).code())
            return grpc.StatusCode.OK

    return await asyncio.to_thread(say)


async def as_person(port: int, credentials: grpc.ChannelCredentials) -> grpc.StatusCode:
    """Ask for the list of runs; return how it is answered."""
    async with grpc.aio.secure_channel(f"{HOST}:{port}", credentials, CHANNEL_OPTIONS) as channel:
        try:
            await channel.unary_unary(f"/{CONTROL}/Runs", None, None)(encode(Ask()), timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def matrix(folder: Path) -> None:
    """Call both services as everybody."""
    async with both_services(folder) as port:
        for what, credentials in NOT_THERE.items():
            for ask_as in (as_silo, as_person):
                assert await ask_as(port, credentials) in UNHEARD, f"{what} comes through the handshake"
        for what, credentials in TO_SILOS.items():
            assert await as_silo(port, credentials) is REFUSED, f"{what} is let in"
        for what, credentials in TO_CONTROL.items():
            assert await as_person(port, credentials) is REFUSED, f"{what} is let in"
        assert await as_silo(port, raw(NORTH)) is grpc.StatusCode.OK
        for person in (SCIENTIST, OPERATOR):
            assert await as_person(port, raw(person)) is grpc.StatusCode.OK


def test_mtls_matrix(tmp_path: Path) -> None:
    silos: tuple[Role, ...] = ("silo",)
    old: dict[str, list[bytes]] = {"ssl_tls_version": [b"TLSv1.2"], "x509_pem_cert": [NORTH.certificate]}
    try:
        who = caller(Established(old), roles=silos, roster=ROSTER)
    except TrustError:
        who = None
    assert who is None, "TLS 1.2 is believed"
    name = test_tls_1_2_is_refused_to_a_client_with_the_right_certificate.__name__
    done = python(RELAXED.format(ciphers=coordinator_tls._CIPHERS, test=f"{__file__}::{name}[raw]"))
    assert done.returncode == 0, "TLS 1.2 is negotiated"
    # A silo's certificate that names the host would be believed for its name.
    serving = with_names("secagg:silo:south", host=HOST)
    dialled = silo_tls.dialling(Tls(**written(tmp_path, NORTH)), name="north")
    code, _ = outcome(tmp_path, Door(served=serving), dialled.credentials)
    assert code in UNHEARD, "a silo serves"
    asyncio.run(matrix(tmp_path))


def unasked(tls: ServerTls, *, federation: str) -> grpc.ServerCredentials:
    """Let the client choose whether it shows a certificate."""
    pair = tls.key.read_bytes(), tls.certificate.read_bytes()
    return grpc.ssl_server_credentials([pair], tls.authority.read_bytes(), require_client_auth=False)


def of_any_role(context: Any, **named: Any) -> Any:
    return caller(context, **named | {"roles": ("silo", "scientist", "operator")})


def of_any_roster(context: Any, **named: Any) -> Any:
    return caller(context, **named | {"roster": None})


def though_revoked(context: Any, **named: Any) -> Any:
    return caller(context, **named | {"revoked": ()})


def by_first_name(certificate: x509.Certificate) -> Any:
    """Take the first name where there are two."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        _, role, name = uri.split(":")
        return Caller(cast(Any, role), name, certificate.fingerprint(hashes.SHA256()).hex())
    return None


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("coordinator.tls.TLS_VERSION", ANY, r"TLS 1\.2 is believed"),
        ("coordinator.tls._CIPHERS", OLD_CIPHERS, r"TLS 1\.2 is negotiated"),
        (
            "coordinator.authority.ExtendedKeyUsageOID",
            SimpleNamespace(
                SERVER_AUTH=ExtendedKeyUsageOID.SERVER_AUTH, CLIENT_AUTH=ExtendedKeyUsageOID.SERVER_AUTH
            ),
            "a silo serves",
        ),
        ("coordinator.tls.server_credentials", unasked, "no certificate comes through"),
        ("coordinator.admission.caller", of_any_role, "a scientist is let in"),
        ("coordinator.admission.caller", of_any_roster, "not in the roster is let in"),
        ("coordinator.admission.caller", though_revoked, "a revoked certificate is let in"),
        ("coordinator.tls.identify", by_first_name, "two names is let in"),
        ("coordinator.tls.caller", of_any_role, "a silo at the control service is let in"),
        ("coordinator.tls.caller", though_revoked, "a revoked scientist is let in"),
    ],
)
def test_mtls_matrix_mutant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, defence: str, mutant: Any, found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_mtls_matrix(tmp_path)
