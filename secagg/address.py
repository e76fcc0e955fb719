"""``host:port`` as operators write it. It asks no name server."""

from __future__ import annotations

import re

from secagg.errors import ParameterError

_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")


def split_address(address: str, *, least_port: int = 1) -> tuple[str, int]:
    """Return host and port of ``address``.

    Args:
        address: ``"silos.example.org:7443"``, ``"127.0.0.1:7443"`` or ``"[::1]:7443"``.
        least_port: 1, or 0 where the system may choose one.

    Raises:
        ParameterError: it is none.

    Guarantees:
        The host has no brackets.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not _HOST.fullmatch(host):
        raise ParameterError("an address is host:port, for example silos.example.org:7443 or [::1]:7443")
    if not (port.isascii() and port.isdigit() and least_port <= int(port[:6]) <= 65535):
        raise ParameterError(f"the port of an address is a whole number, {least_port} to 65535")
    return host.strip("[]"), int(port)
