"""``silo.toml``: floors map to the policy, paths start at the file, and a key is its owner's alone."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secagg.address import split_address
from secagg.errors import EnvironmentFault, ParameterError, TrustError
from secagg.hazmat.identity import IdentityKey
from secagg.policy import Policy
from secagg.privacy.ledger import Budget
from secagg.roster import Roster
from secagg.roster_file import write_roster
from silo.config import Floors, SiloConfig

HASH = "sha256:" + "ab" * 32
TOML = f"""\
name = "north"
coordinator = "127.0.0.1:7443"
state = "state"
roster = "roster.toml"
identity = "identity.pem"
threads = 2
memory_limit = 2_000_000_000

[tls]
authority = "authority.pem"
certificate = "/elsewhere/silo.pem"
key = "silo.key"

[policy]
min_silos = 5
max_clip = 8

[policy.apps]
"examples.medical_imaging.app:hospital" = "{HASH}"

[data]
name = "brain"
[data.arguments]
name = "north"
seed = 0
"""


def pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A silo's folder with identity, roster and TLS key."""
    key = Ed25519PrivateKey.generate()
    others = {name: IdentityKey.generate().public for name in ("south", "west")}
    roster = Roster.of({"north": IdentityKey(key).public, **others})
    (tmp_path / "roster.toml").write_text(write_roster(roster), encoding="utf-8")
    for name, content in (("identity.pem", pem(key)), ("silo.key", b"checked elsewhere")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "silo.toml").write_text(TOML, encoding="utf-8")
    return tmp_path


def rewritten(folder: Path, old: str, new: str) -> Path:
    path = folder / "silo.toml"
    assert old in TOML
    path.write_text(TOML.replace(old, new), encoding="utf-8")
    return path


def test_a_right_file_loads_with_paths_from_its_own_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    config = SiloConfig.load(Path(folder.name) / "silo.toml")
    assert config.state == folder / "state"
    assert config.ledger_folder == folder / "state" / "ledger"
    assert config.tls.key == folder / "silo.key"
    assert config.tls.certificate == Path("/elsewhere/silo.pem")
    assert config.policy.policy() == Policy(min_silos=5, max_clip=8.0)
    assert config.policy.apps == {"examples.medical_imaging.app:hospital": HASH}
    assert (config.threads, config.data.name) == (2, "brain")
    assert config.data.arguments == {"name": "north", "seed": 0}
    identity, roster = config.member()
    assert roster.key("north") == identity.public
    assert roster.n == 3


def test_the_floors_are_those_of_the_policy_and_no_second_list() -> None:
    named = {field.name for kind in (Policy, Budget) for field in fields(kind)}
    assert set(Floors.model_fields) - {"apps"} == named
    assert Floors().policy() == Policy()
    assert Floors().budget() == Budget()
    assert Floors(epsilon=2.5, delta=1e-6, period_days=30).budget() == Budget(2.5, 1e-6, 30)
    # A limit that a round without noise would pass by is none.
    assert Floors(epsilon=2.5).policy() == Policy(require_privacy=True)
    assert Floors(epsilon=2.5, require_privacy=False).policy() == Policy()
    every = Policy(
        schemes=frozenset({"plain"}),
        min_silos=9,
        colluders=2,
        min_honest=3,
        min_threshold=7,
        max_clip=1.5,
        min_weight_cap=5000.0,
        require_privacy=True,
        max_l2_clip_norm=0.5,
    )
    assert Floors(**vars(every)).policy() == every
    assert all(getattr(every, field.name) != field.default for field in fields(Policy))


def test_without_a_policy_no_code_is_approved_and_plain_is_not_allowed(folder: Path) -> None:
    text = re.sub(r"\[policy\].*(?=\[data\]\n)", "", TOML, flags=re.DOTALL)
    (folder / "silo.toml").write_text(text, encoding="utf-8")
    config = SiloConfig.load(folder / "silo.toml")
    assert not config.policy.apps
    assert config.policy.policy().schemes == {"masking"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("min_silos = 5", "min_silo = 5", "line 15: min_silo is no key of [policy]; did you mean min_silos?"),
        ("min_silos = 5", "min_silos = 2", "line 14: policy: min_silos is 2, must be at least 3"),
        ("min_silos = 5", 'schemes = ["mask"]', "line 14: policy: schemes names one that there is"),
        ("max_clip = 8", "max_clip = -1", "line 14: policy: max_clip is -1"),
        ("max_clip = 8", "max_clip = nan", "line 14: policy: max_clip is nan"),
        ("min_silos = 5", "epsilon = 0", "line 14: policy: epsilon is 0"),
        ("min_silos = 5", "epsilon = inf", "line 14: policy: epsilon is inf"),
        ("min_silos = 5", "delta = 1.0", "line 14: policy: delta is 1.0, must be below 1"),
        ("min_silos = 5", "period_days = 0", "line 14: policy: period_days is 0, must be at least 1"),
        ("min_silos = 5", "period_days = 99999", "line 14: policy: period_days is 99999, must be at most"),
        (HASH, "sha256:ab", "line 19: policy.apps.'examples.medical_imaging.app:hospital': a hash is"),
        (HASH, HASH.upper(), "line 19: policy.apps.'examples.medical_imaging.app:hospital': a hash is"),
        ("medical_imaging.app:hospital", "app", "line 19: policy.apps.'examples.app': an app is"),
        ("medical_imaging.app:hospital", "a:b()", "line 19: policy.apps.'examples.a:b()': an app is"),
        ('"north"\ncoordinator', '"no/rth"\ncoordinator', "line 1: name: silo name 'no/rth': 1 to 64"),
        ("127.0.0.1:7443", "127.0.0.1", "line 2: coordinator: an address is host:port"),
        ("127.0.0.1:7443", "https://a:7443", "line 2: coordinator: an address is host:port"),
        ("127.0.0.1:7443", "a:0", "line 2: coordinator: the port of an address is a whole number, 1 to"),
        ("127.0.0.1:7443", "a:65536", "line 2: coordinator: the port of an address"),
        ("threads = 2", "threads = 0", "line 6: threads is 0, must be at least 1"),
        ('key = "silo.key"\n', "", "line 9: tls.key is missing"),
        ('name = "brain"', 'name = ""', "line 22: data.name"),
        ('name = "brain"', 'name = "brain scans"', "line 22: data.name: a data set's name is 1 to 64"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_line(folder: Path, old: str, new: str, expected: str) -> None:
    path = rewritten(folder, old, new)
    with pytest.raises(ParameterError) as caught:
        SiloConfig.load(path)
    assert str(caught.value).startswith(f"{path}, {expected}")


def test_the_ledger_may_lie_outside_of_the_state(folder: Path) -> None:
    config = SiloConfig.load(rewritten(folder, 'state = "state"', 'state = "state"\nledger = "kept/ledger"'))
    assert config.ledger_folder == folder / "kept" / "ledger"


@pytest.mark.parametrize("key", ["identity.pem", "silo.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601])
def test_a_key_that_others_may_use_is_refused_with_the_command(folder: Path, key: str, mode: int) -> None:
    (folder / key).chmod(mode)
    with pytest.raises(EnvironmentFault, match=rf"\(mode {mode:04o}\)\. Type: chmod 600 \S*{key}$"):
        SiloConfig.load(folder / "silo.toml")
    (folder / key).chmod(0o400)
    SiloConfig.load(folder / "silo.toml")


def test_a_key_of_another_owner_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: (folder / "silo.key").stat().st_uid + 1)
    with pytest.raises(
        EnvironmentFault, match=r"private key of user \d+, and this process runs as \d+\. Type: "
    ):
        SiloConfig.load(folder / "silo.toml")


def test_a_path_with_blanks_is_quoted_in_the_command(folder: Path) -> None:
    (folder / "my key").write_bytes(b"")
    (folder / "my key").chmod(0o644)
    path = rewritten(folder, '"silo.key"', '"my key"')
    with pytest.raises(EnvironmentFault, match=r"chmod 600 '.*/my key'$"):
        SiloConfig.load(path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.unlink(), "is not there: create it, or correct its path"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder, a file is expected"),
        (lambda path: path.write_bytes(b"name = '\xff'"), "is no UTF-8 text"),
    ],
)
def test_an_unreadable_file_is_named(folder: Path, make: object, expected: str) -> None:
    assert callable(make)
    make(folder / "silo.toml")
    with pytest.raises(EnvironmentFault, match=re.escape(f"{folder / 'silo.toml'} {expected}")):
        SiloConfig.load(folder / "silo.toml")


def test_a_file_that_this_user_may_not_read_comes_with_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # Root, who may run this, is never refused.
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(EnvironmentFault, match=r"may not be read by this user\. Type: sudo chown"):
        SiloConfig.load(folder / "silo.toml")


def test_a_mark_at_the_beginning_of_the_file_is_no_fault(folder: Path) -> None:
    path = folder / "silo.toml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert SiloConfig.load(path).name == "north"


def test_an_identity_that_is_no_key_is_refused_without_its_text(folder: Path) -> None:
    config = SiloConfig.load(folder / "silo.toml")
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content, expected in (
        (b"c2VjcmV0", "is no unencrypted private key in PEM"),
        (other, "is no Ed25519 key"),
    ):
        config.identity.write_bytes(content)
        with pytest.raises(EnvironmentFault, match=expected) as caught:
            config.member()
        assert "c2VjcmV0" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_roster_without_this_silo_or_with_another_key_is_not_trusted(folder: Path) -> None:
    config = SiloConfig.load(folder / "silo.toml")
    roster = config.member()[1]
    config.roster.write_text(write_roster(Roster(roster.members[1:])), encoding="utf-8")
    with pytest.raises(TrustError, match="has no silo north; it has south, west"):
        config.member()
    stranger = ("north", IdentityKey.generate().public)
    config.roster.write_text(write_roster(Roster((stranger, *roster.members[1:]))), encoding="utf-8")
    with pytest.raises(TrustError, match=r"roster\.toml pins [0-9A-F ]+ for north, and .*identity\.pem is"):
        config.member()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b-c:1", ("a.b-c", 1)),
        ("[::1]:7443", ("::1", 7443)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
    ],
)
def test_an_address_is_split(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a",
        "a:",
        ":1",
        "a:b",
        "a:-1",
        "a:1 ",
        "::1:7443",
        "a/b:1",
        "a:\u0661",
        "[]:1",
        "a:" + "9" * 99,
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ParameterError):
        split_address(text)
