"""Parts of a model as files: JSON, exact, whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

from secagg.errors import EnvironmentFault
from secagg.vertical.files import write_whole
from secagg.vertical.trees.model import ModelPart, P, from_json, to_json


def save(part: ModelPart, path: str | os.PathLike[str]) -> None:
    """Write a part of a model, which its owner alone may read.

    Args:
        part: a party's own.
        path: of the file; its folder is there.

    Raises:
        EnvironmentFault: it cannot be written; what was there before is as it was.
    """
    write_whole(path, to_json(part))


def load(path: str | os.PathLike[str], kind: type[P]) -> P:
    """Read a part of a model.

    Args:
        path: of the file.
        kind: ``Forest`` or ``Splits``.

    Raises:
        EnvironmentFault: it cannot be read.
        MalformedMessage: it holds no such part.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}") from error
    return from_json(data, kind)
