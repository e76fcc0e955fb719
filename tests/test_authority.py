"""The development authority: what its certificates say, and what it leaves on disk."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.authority import Authority, Issued, write_new
from coordinator.config import ClientConfig, CoordinatorConfig
from coordinator.development import write_development_federation
from secagg.certificates import Caller, Pem, check_own, grouped_fingerprint, identify, parse_fingerprint
from secagg.errors import EnvironmentFault, ParameterError, TrustError
from secagg.hazmat.identity import fingerprint
from secagg.policy import Policy
from secagg.roster_file import parse_roster
from silo.config import SiloConfig

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
AUTHORITY = Authority.create("test authority", now=NOW)
SILO = AUTHORITY.issue_silo("north", now=NOW)
SILOS = ("north", "south", "west")


def loaded(issued: Issued) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issued.certificate)


# --- certificates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("issued", "uri", "usage"),
    [
        (SILO, "secagg:silo:north", ExtendedKeyUsageOID.CLIENT_AUTH),
        (
            AUTHORITY.issue_person("scientist", "ada", now=NOW),
            "secagg:scientist:ada",
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ),
        (
            AUTHORITY.issue_person("operator", "ops", now=NOW),
            "secagg:operator:ops",
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ),
        (
            AUTHORITY.issue_coordinator("brains", ["localhost", "127.0.0.1"], now=NOW),
            "secagg:coordinator:brains",
            ExtendedKeyUsageOID.SERVER_AUTH,
        ),
    ],
)
def test_a_certificate_has_one_name_and_one_use(
    issued: Issued, uri: str, usage: x509.ObjectIdentifier
) -> None:
    certificate = loaded(issued)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert identify(certificate) == issued.caller
    assert issued.caller.uri == uri
    assert issued.caller.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(AUTHORITY.certificate))
    assert not certificate.serial_number < 2**64  # Random, not counted.


def test_a_coordinator_has_the_hosts_by_which_it_is_dialled() -> None:
    certificate = loaded(AUTHORITY.issue_coordinator("f", ["silos.example.org", "127.0.0.1", "::1"], now=NOW))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["silos.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_certificates_last_90_days_the_authority_a_year_and_none_longer_than_it() -> None:
    authority = x509.load_pem_x509_certificate(AUTHORITY.certificate)
    assert authority.not_valid_after_utc == NOW + 365 * DAY
    assert loaded(SILO).not_valid_after_utc == NOW + 90 * DAY
    assert loaded(SILO).not_valid_before_utc == NOW - timedelta(hours=1)
    late = AUTHORITY.issue_silo("north", now=NOW + 300 * DAY)
    assert loaded(late).not_valid_after_utc == authority.not_valid_after_utc


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "a/b", "a:b", "é"])
def test_a_name_that_cannot_stand_in_a_certificate_is_refused(name: str) -> None:
    with pytest.raises(ParameterError):
        AUTHORITY.issue_silo(name)
    with pytest.raises(ParameterError):
        AUTHORITY.issue_person("operator", name)
    with pytest.raises(ParameterError):
        AUTHORITY.issue_coordinator(name, ["localhost"])


@pytest.mark.parametrize("hosts", [[], ["a b"], ["localhost", "é"], [""], ["a/b"], ["a:1"]])
def test_what_is_no_host_is_refused(hosts: list[str]) -> None:
    with pytest.raises(ParameterError, match="host"):
        AUTHORITY.issue_coordinator("f", hosts)


@pytest.mark.parametrize("name", ["", "a" * 65])
def test_an_authority_has_a_name(name: str) -> None:
    with pytest.raises(ParameterError, match="common_name has 1 to 64"):
        Authority.create(name)


def test_no_key_is_shown() -> None:
    shown = repr(SILO) + repr(AUTHORITY) + repr(Pem(Path("silo.key"), SILO.key))
    assert "PRIVATE" not in shown
    assert not any(line in shown for line in SILO.key.decode().splitlines())
    assert AUTHORITY.fingerprint in shown
    assert grouped_fingerprint(SILO.caller.fingerprint) in shown


def test_a_fingerprint_is_read_as_it_is_printed() -> None:
    assert parse_fingerprint(grouped_fingerprint(SILO.caller.fingerprint)) == SILO.caller.fingerprint
    assert len(AUTHORITY.fingerprint.split()) == 16


# --- who a certificate stands for ---------------------------------------------------------------------------


def certificate_with(*names: x509.GeneralName) -> x509.Certificate:
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def uris(*texts: str) -> x509.Certificate:
    return certificate_with(*(x509.UniformResourceIdentifier(text) for text in texts))


def test_other_names_beside_the_one_do_not_matter() -> None:
    caller = identify(uris("https://example.org", "secagg:silo:north"))
    assert (caller.role, caller.name) == ("silo", "north")


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        (certificate_with(), "has 0 names secagg:<role>:<name>, exactly one is needed"),
        (certificate_with(x509.DNSName("north")), "has 0 names"),
        (uris("https://silo/north"), "has 0 names"),
        (uris("secagg:silo:north", "secagg:silo:south"), "has 2 names"),
        (uris("secagg:silo:north", "secagg:operator:north"), "has 2 names"),
        (uris("secagg:silo:north", "SECAGG:operator:north"), "has 2 names"),
        (uris("SECAGG:silo:north"), "role or name that there is not"),
        (uris("secagg:auditor:north"), "role or name that there is not; roles are silo, coordinator"),
        (uris("secagg:silo:"), "role or name that there is not"),
        (uris("secagg:silo"), "role or name that there is not"),
        (uris("secagg:silo:north:south"), "role or name that there is not"),
        (uris("secagg:silo:" + "a" * 65), "role or name that there is not"),
    ],
)
def test_a_certificate_that_stands_for_nobody_or_two_is_not_trusted(
    certificate: x509.Certificate, expected: str
) -> None:
    with pytest.raises(TrustError, match=expected):
        identify(certificate)


# --- whether a party's own files fit ------------------------------------------------------------------------


def check(
    certificate: bytes = SILO.certificate,
    key: bytes = SILO.key,
    *,
    authority: bytes = AUTHORITY.certificate,
    now: datetime = NOW,
) -> Caller:
    return check_own(
        Pem(Path("authority.pem"), authority),
        Pem(Path("silo.pem"), certificate),
        Pem(Path("silo.key"), key),
        now=now,
    )


def test_files_that_fit_say_who_they_are_for() -> None:
    assert check() == SILO.caller
    other = Authority.create("other", now=NOW).certificate
    assert check(authority=other + AUTHORITY.certificate) == SILO.caller


def test_files_that_do_not_fit_are_not_trusted() -> None:
    other = Authority.create("test authority", now=NOW)
    with pytest.raises(TrustError, match=r"silo\.pem is not signed by authority\.pem"):
        check(authority=other.certificate)
    with pytest.raises(TrustError, match=r"silo\.key is not the key of silo\.pem"):
        check(key=AUTHORITY.issue_silo("north", now=NOW).key)
    with pytest.raises(TrustError, match="do not sign each other in order"):
        check(SILO.certificate + other.certificate)


def test_dates_are_named_with_the_file() -> None:
    with pytest.raises(TrustError, match=r"silo\.pem expired on 2026-05-30 12:00 UTC"):
        check(now=NOW + 91 * DAY)
    with pytest.raises(TrustError, match=r"authority\.pem expired on 2027-03-01 12:00 UTC"):
        check(now=NOW + 366 * DAY)
    later = AUTHORITY.issue_silo("north", now=NOW + 2 * DAY)
    with pytest.raises(
        TrustError, match=r"silo\.pem is valid from 2026-03-03 11:00 UTC and here it is 2026-03-01 12:00"
    ):
        check(later.certificate, later.key)


@pytest.mark.parametrize("content", [b"", b"c2VjcmV0", SILO.key])
def test_what_is_no_certificate_is_named_and_not_quoted(content: bytes) -> None:
    with pytest.raises(EnvironmentFault, match=r"^silo\.pem holds no certificate in PEM") as caught:
        check(content)
    assert caught.value.__suppress_context__
    with pytest.raises(EnvironmentFault, match=r"^authority\.pem holds no certificate in PEM"):
        check(authority=content)


def test_what_is_no_key_is_named_and_not_quoted() -> None:
    rsa = generate_rsa(public_exponent=65537, key_size=2048)
    for content, expected in (
        (b"c2VjcmV0", "no unencrypted private key"),
        (SILO.certificate, "no unencrypted private key"),
        (rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "no elliptic-curve key"),
    ):
        with pytest.raises(EnvironmentFault, match=rf"^silo\.key is {expected}"):
            check(key=content)


def test_an_rsa_certificate_is_refused_because_it_would_serve_tls_1_2() -> None:
    rsa = generate_rsa(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rsa")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(rsa.public_key())
    builder = builder.serial_number(7).not_valid_before(NOW).not_valid_after(NOW + DAY)
    pem = builder.sign(rsa, hashes.SHA256()).public_bytes(Encoding.PEM)
    with pytest.raises(TrustError, match=r"silo\.pem has no elliptic-curve key"):
        check(pem, authority=pem)


# --- files --------------------------------------------------------------------------------------------------


def test_an_authority_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    AUTHORITY.save(tmp_path / "authority")
    again = Authority.load(tmp_path / "authority")
    assert again.certificate == AUTHORITY.certificate
    issued = again.issue_silo("south", now=NOW)
    assert check(issued.certificate, issued.key) == issued.caller


def test_an_authority_is_never_overwritten(tmp_path: Path) -> None:
    AUTHORITY.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        EnvironmentFault, match=r"authority\.key is there already, and nothing is overwritten"
    ):
        Authority.create("second").save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"authority.key", "authority.pem"}


def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"authority\.pem is not there"):
        Authority.load(tmp_path)
    AUTHORITY.save(tmp_path)
    (tmp_path / "authority.key").chmod(0o640)
    with pytest.raises(EnvironmentFault, match="chmod 600"):
        Authority.load(tmp_path)
    (tmp_path / "authority.key").chmod(0o600)
    (tmp_path / "authority.key").write_bytes(SILO.key)
    with pytest.raises(EnvironmentFault, match=r"authority\.key is not the key of .*authority\.pem"):
        Authority.load(tmp_path)
    (tmp_path / "authority.key").write_bytes(b"c2VjcmV0")
    with pytest.raises(EnvironmentFault, match="holds no authority"):
        Authority.load(tmp_path)


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_a_new_file_has_its_mode_and_leaves_nothing_beside_it(
    tmp_path: Path, *, private: bool, mode: int
) -> None:
    write_new(tmp_path / "file", b"content", private=private)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    with pytest.raises(EnvironmentFault, match="is there already"):
        write_new(tmp_path / "file", b"other", private=private)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(EnvironmentFault, match="cannot be written: No such file or directory"):
        write_new(tmp_path / "no" / "file", b"")


# --- a federation for development ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("development") / "federation"
    write_development_federation(
        folder,
        SILOS,
        federation="brains",
        policy=Policy(min_silos=3, max_clip=8.0, schemes=frozenset({"plain", "masking"})),
        apps={"package.module:function": "sha256:" + "0f" * 32},
        arguments={"north": {"name": 'a "quoted" \\ path\x7f\n', "seed": 7, "rate": 1e-3, "deep": True}},
    )
    return folder


def test_every_party_has_a_file_that_loads_and_files_that_fit(federation: Path) -> None:
    now = datetime.now(UTC)
    coordinator = CoordinatorConfig.load(federation / "coordinator" / "coordinator.toml")
    parties = [(coordinator.tls, ("coordinator", "brains"))]
    for silo in SILOS:
        config = SiloConfig.load(federation / "silos" / silo / "silo.toml")
        identity, roster = config.member()
        assert roster == coordinator.members()
        assert roster.key(silo) == identity.public
        assert config.coordinator == coordinator.listen == "127.0.0.1:7443"
        parties.append((config.tls, ("silo", silo)))  # type: ignore[arg-type]
    for role in ("scientist", "operator"):
        client = ClientConfig.load(federation / role / "client.toml")
        assert parse_roster(client.roster.read_text(encoding="utf-8"), "r") == coordinator.members()
        parties.append((client.tls, (role, role)))  # type: ignore[arg-type]
    for tls, who in parties:
        files = (Pem(path, path.read_bytes()) for path in (tls.authority, tls.certificate, tls.key))
        caller = check_own(*files, now=now)
        assert (caller.role, caller.name) == who


def test_a_silos_file_says_what_was_asked_for(federation: Path) -> None:
    config = SiloConfig.load(federation / "silos" / "north" / "silo.toml")
    assert config.policy.policy() == Policy(max_clip=8.0, schemes=frozenset({"plain", "masking"}))
    assert config.policy.apps == {"package.module:function": "sha256:" + "0f" * 32}
    assert config.data.arguments == {
        "name": 'a "quoted" \\ path\x7f\n', "seed": 7, "rate": 1e-3, "deep": True
    }  # fmt: skip
    assert SiloConfig.load(federation / "silos" / "south" / "silo.toml").data.arguments == {}


def test_private_keys_are_their_owners_alone_and_no_party_has_anothers(federation: Path) -> None:
    keys = [path for path in federation.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert len(keys) == 1 + 1 + 2 * len(SILOS) + 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)
    assert len({path.read_bytes() for path in keys}) == len(keys)
    for home in (federation / "silos").iterdir():
        assert sorted(path.name for path in home.iterdir()) == [
            "authority.pem", "identity.pem", "roster.toml", "silo.key", "silo.pem", "silo.toml"
        ]  # fmt: skip


def test_it_says_that_it_is_for_development_and_shows_fingerprints(federation: Path) -> None:
    text = (federation / "README.txt").read_text(encoding="utf-8")
    assert "One place has made all keys" in text
    assert Authority.load(federation / "authority").fingerprint in text
    roster = CoordinatorConfig.load(federation / "coordinator" / "coordinator.toml").members()
    assert all(fingerprint(key) in text for _, key in roster.members)


def test_nothing_is_overwritten_and_nothing_half_made_is_left(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "note").touch()
    with pytest.raises(EnvironmentFault, match="here is there already, and nothing is overwritten"):
        write_development_federation(tmp_path / "here", SILOS)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["note"]


@pytest.mark.parametrize(
    ("silos", "given", "expected"),
    [
        (("north", ".."), {}, "has no folder of its own"),
        (("north", "a/b"), {}, "1 to 64 of letters"),
        (("north", "north"), {}, "stands twice"),
        ((), {}, "at least one"),
        (SILOS, {"hosts": ()}, "needs a host"),
        (SILOS, {"listen": "127.0.0.1:0"}, "the port of an address"),
        (SILOS, {"federation": "a b"}, "a name is 1 to 64"),
    ],
)
def test_what_cannot_be_a_federation_leaves_nothing(
    tmp_path: Path, silos: tuple[str, ...], given: dict[str, str], expected: str
) -> None:
    with pytest.raises(ParameterError, match=expected):
        write_development_federation(tmp_path / "x", silos, **given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("listen", "hosts", "dialled"),
    [
        ("0.0.0.0:7000", ("silos.example.org", "127.0.0.1"), "silos.example.org:7000"),
        ("127.0.0.1:7000", ("silos.example.org", "127.0.0.1"), "127.0.0.1:7000"),
        ("[::1]:7000", ("::1",), "[::1]:7000"),
    ],
)
def test_silos_dial_a_host_that_stands_in_the_certificate(
    tmp_path: Path, listen: str, hosts: tuple[str, ...], dialled: str
) -> None:
    write_development_federation(tmp_path / "x", SILOS, listen=listen, hosts=hosts)
    assert SiloConfig.load(tmp_path / "x" / "silos" / "west" / "silo.toml").coordinator == dialled
    assert CoordinatorConfig.load(tmp_path / "x" / "coordinator" / "coordinator.toml").listen == listen
