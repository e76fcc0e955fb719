"""Cases for Paillier: packing, keys, ciphertexts and sums, and a key that several open."""

from __future__ import annotations

from secagg.paillier.params import SECRET_MAGIC
from secagg.paillier.public import MAGIC
from secagg.paillier.secret import SecretKey
from tests.paillier_keys import SAFE_P, SAFE_Q
from tests.vectors.cases import Group
from tests.vectors.notation import CounterSource

BITS = 2048
CIPHERTEXT = BITS // 4


def packing() -> Group:
    group = Group(
        "Integers in lanes of 33 bits (words of 32 bits) or 55 (64 bits), with a bias; in the first, the "
        "lowest, is what all silos write there."
    )
    small = {"word_bits": 32, "cohort": 3, "plaintext_bits": 120}
    bias = (2**31 - 1) // 3
    values = [1, -1, bias, -bias, 0]
    three: dict[str, object] = {"checks": [5, -bias, bias]}
    rows = group.passes("two entries a plaintext", "pack", **small, **three, values=values)
    wide = {"word_bits": 64, "cohort": 2, "plaintext_bits": 167}
    most = 2**53 // 2
    more = group.passes("lanes of 55 bits", "pack", **wide, checks=[-7, most], values=[most, -most, 7])
    three["length"] = 5
    group.passes("one silo", "unpack", **small, **three, rows=rows, silos=1)
    group.passes("64 bits", "unpack", **wide, checks=[-7, most], rows=more, length=3, silos=1)
    for name, value in {"beyond the bias": bias + 1, "beyond it below": -bias - 1}.items():
        group.fails(name, "pack", "InputRefused", **small, checks=[0], values=[0, value])
    for name, changes in {
        "no room for two lanes": {"plaintext_bits": 65},
        "no cohort": {"cohort": 0},
        "16 bits": {"word_bits": 16},
    }.items():
        group.fails(name, "pack", "ParameterError", **(small | changes), checks=[0], values=[0])
    wrong = {
        "another check": 1,
        "a lane above the sum": (2**33 - 1) << 33,
        "something behind the end": 1 << 66,
        "something above the last lane": 1 << 99,
    }
    for name, row in wrong.items():
        given: dict[str, object] = {"checks": [-bias], "rows": [row.to_bytes(13, "little")]}
        group.fails(name, "unpack", "RoundAborted", **small, **given, length=1, silos=1)
    swapped = [rows[1], rows[0], rows[2]]
    group.fails("rows that changed places", "unpack", "RoundAborted", **small, **three, rows=swapped, silos=1)
    group.fails("more silos than the cohort", "unpack", "UsageError", **small, **three, rows=rows, silos=4)
    group.fails("too few plaintexts", "unpack", "UsageError", **small, **three, rows=rows[1:], silos=1)
    return group


def paillier() -> Group:
    group = Group(
        "Paillier with g = n + 1; numbers are big-endian, plaintexts little-endian. `random` of a dealt key: "
        "for each coefficient, then for the root of the generator, the bytes of the limit and 17 more."
    )
    secret = SecretKey(SAFE_P, SAFE_Q)
    public = secret.public.to_bytes()
    _keys(group, secret)
    ciphertexts = _sums(group, secret, public)
    _together(group, ciphertexts)
    return group


def _keys(group: Group, secret: SecretKey) -> None:
    public, n = secret.public.to_bytes(), int(secret.public.n)
    group.passes("a public key", "paillier_public", public=public)
    group.passes(
        "one with full obfuscators", "paillier_public", public=MAGIC + b"\1" + n.to_bytes(256, "big")
    )
    group.passes("a secret key", "paillier_secret", secret=secret.to_bytes())
    for name, bad in {
        "nothing": b"",
        "a secret key as a public one": secret.to_bytes(),
        "another kind": MAGIC + b"\2" + n.to_bytes(256, "big"),
        "an even modulus": MAGIC + b"\0" + (n - 1).to_bytes(256, "big"),
        "a modulus of 2040 bits": MAGIC + b"\0" + (n >> 8).to_bytes(255, "big"),
        "a leading zero": MAGIC + b"\0" + n.to_bytes(257, "big"),
        "a square": MAGIC + b"\0" + (SAFE_P * SAFE_P).to_bytes(256, "big"),
    }.items():
        group.fails(name, "paillier_public", "MalformedMessage", public=bad)
    p = SAFE_P.to_bytes(128, "big")
    for name, bad in {
        "a public key as a secret one": public,
        "one prime twice": SECRET_MAGIC + b"\0" + p + p,
        "a number that is not prime": SECRET_MAGIC + b"\0" + p + (SAFE_Q - 2).to_bytes(128, "big"),
        "half a key": SECRET_MAGIC + b"\0" + p,
    }.items():
        group.fails(name, "paillier_secret", "MalformedMessage", secret=bad)


def _sums(group: Group, secret: SecretKey, public: bytes) -> bytes:
    random = CounterSource("obfuscators")
    one, two = ([bytes([value]) + bytes(4)] for value in (200, 100))
    first = group.passes("an encryption", "paillier_encrypt", public=public, rows=one, random=random(128))
    second = group.passes("another one", "paillier_encrypt", public=public, rows=two, random=random(128))
    given = {"public": public, "count": 1}
    total = group.passes("a sum of two", "paillier_add", **given, vectors=[first, second])
    group.passes("its opening", "paillier_open", secret=secret.to_bytes(), ciphertexts=total, size=5)
    group.fails(
        "a plaintext that may reach n",
        "paillier_encrypt",
        "UsageError",
        public=public,
        rows=[bytes(255) + b"\x80"],  # 2^2047: one bit more than every plaintext below n has room for
        random=b"",
    )
    group.fails("a sum of none", "paillier_add", "UsageError", **given, vectors=[])
    n = int(secret.public.n)
    for name, number in {
        "zero": 0,
        "one": 1,
        "a plaintext in clear": 1 + 5 * n,
        "a factor of n": SAFE_P * 12345,
        "n": n,
        "n squared": n * n,
    }.items():
        bad = number.to_bytes(CIPHERTEXT, "big")
        group.fails(f"{name} is no ciphertext", "paillier_add", "MalformedMessage", **given, vectors=[bad])
    raw = bytes.fromhex(str(first)[2:])
    for name, cut in {
        "a byte too few": raw[:-1],
        "a byte too many": raw + b"\0",
        "two for one": raw + raw,
    }.items():
        group.fails(name, "paillier_add", "MalformedMessage", **given, vectors=[cut])
    group.fails(
        "a sum that does not fit",
        "paillier_open",
        "RoundAborted",
        secret=secret.to_bytes(),
        ciphertexts=total,
        size=1,
    )
    return bytes.fromhex(str(total)[2:])


def _together(group: Group, ciphertexts: bytes) -> None:
    p, q = (prime.to_bytes(128, "big") for prime in (SAFE_P, SAFE_Q))
    random = CounterSource("deal")
    n = SAFE_P * SAFE_Q
    limits = (n * (SAFE_P // 2) * (SAFE_Q // 2), n * n)  # Of a coefficient, of the root of the generator.
    drawn = b"".join(random(limit.bit_length() // 8 + 17) for limit in limits)
    primes: dict[str, object] = {"p": p, "q": q, "random": drawn}
    dealt = group.passes("two of three", "paillier_deal", **primes, parties=3, threshold=2)
    wrong: dict[str, dict[str, object]] = {
        "one prime for both": {"q": p},
        "a prime that is not safe": {"q": (SAFE_Q + 2).to_bytes(128, "big")},
        "four of three": {"threshold": 4},
        "none of three": {"threshold": 0},
        "one party": {"parties": 1, "threshold": 1},
    }
    for name, changes in wrong.items():
        given = primes | {"parties": 3, "threshold": 2} | changes
        group.fails(name, "paillier_deal", "ParameterError", **given)
    key = dealt["key"]
    partials = {
        party: group.passes(
            f"the partial decryption of party {party}",
            "paillier_decrypt_share",
            key=key,
            share=dealt["shares"][party - 1],
            ciphertexts=ciphertexts,
        )
        for party in (1, 3)
    }
    group.fails(
        "another's share",
        "paillier_decrypt_share",
        "MalformedMessage",
        key=key,
        share=dealt["shares"][1][:-2] + "00",
        ciphertexts=ciphertexts,
    )
    combined = [[party, partial] for party, partial in partials.items()]
    group.passes("two open the sum", "paillier_combine", key=key, partials=combined, size=5)
    group.fails("one does not", "paillier_combine", "UsageError", key=key, partials=combined[:1], size=5)
    swapped = [[1, partials[3]], [3, partials[1]]]
    group.fails("exchanged", "paillier_combine", "RoundAborted", key=key, partials=swapped, size=5)
    stated = {"key": key, "ciphertexts": ciphertexts, "partials": partials[1], "context": b"round"}
    blinding = random((2 * BITS + 3 + 513) // 8 + 1)
    share = dealt["shares"][0]
    proof = group.passes("a proof", "paillier_prove", **stated, share=share, random=blinding)
    checked = stated | {"party": 1} | proof
    group.passes("it holds", "paillier_check", **checked)
    for name, other in {
        "for another party": {"party": 3},
        "for no party": {"party": 4},
        "for another round": {"context": b"other"},
        "for other partials": {"partials": partials[3]},
        "for nothing": {"partials": b"", "ciphertexts": b""},
        "with another challenge": {"challenge": "0x" + "00" * 32},
        "with another response": {"response": proof["response"][:-2] + "00"},
        "with a longer response": {"response": proof["response"] + "00" * 100},
    }.items():
        group.fails(name, "paillier_check", False, **(checked | other))
