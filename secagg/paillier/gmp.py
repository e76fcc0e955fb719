"""The library for large integers, which only the extra brings; no other module of ``secagg`` imports it."""

from secagg.errors import MissingExtra

try:
    import gmpy2 as gmpy2  # noqa: PLC0414 - handed on
    from gmpy2 import mpz as mpz  # noqa: PLC0414 - handed on
except ModuleNotFoundError as missing:
    raise MissingExtra("paillier", "gmpy2") from missing
