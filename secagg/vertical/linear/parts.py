"""What a party keeps of a trained model: its own coefficients, in a file that has nothing of the others."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secagg.errors import EnvironmentFault, ParameterError
from secagg.names import RealVector, SiloId
from secagg.vertical.files import write_whole
from secagg.vertical.linear.terms import Settings

_FORM = "secagg vertical regression 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelPart:
    """One party's part of a model.

    Attributes:
        party: whose.
        columns: names of its columns.
        coefficients: of these, float64, shape (columns,).
        intercept: of the model; 0 at parties without labels.
        settings: of the training.
        parties: all, in order.
        label_party: one of them.
        exponent: labels and sums are told in units of 2^exponent.
        model: 32 bytes that all parts of one training have.
    """

    party: SiloId
    columns: tuple[str, ...]
    coefficients: RealVector = field(repr=False)
    intercept: float = field(repr=False)
    settings: Settings
    parties: tuple[SiloId, ...]
    label_party: SiloId
    exponent: int
    model: bytes = field(repr=False)

    def save(self, path: Path | str) -> None:
        """Write an ``.npz`` file, which its owner alone may read; what was there stays until it is replaced.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        described = {
            "form": _FORM,
            "party": self.party,
            "columns": self.columns,
            "settings": dataclasses.asdict(self.settings),
            "parties": self.parties,
            "label_party": self.label_party,
            "exponent": self.exponent,
            "model": self.model.hex(),
        }
        content = io.BytesIO()
        np.savez(
            content,
            description=np.frombuffer(json.dumps(described).encode(), np.uint8),
            coefficients=self.coefficients,
            intercept=np.array(self.intercept),
        )
        write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> ModelPart:
        """Read what ``save`` wrote.

        Raises:
            EnvironmentFault: the file cannot be read, or is no part of a model.
        """
        try:
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                described: dict[str, Any] = json.loads(file["description"].tobytes())
                coefficients, intercept = file["coefficients"], float(file["intercept"])
            if described.pop("form") != _FORM or coefficients.shape != (len(described["columns"]),):
                raise ValueError(path)
            return cls(
                party=str(described["party"]),
                columns=tuple(map(str, described["columns"])),
                coefficients=coefficients.astype(np.float64),
                intercept=intercept,
                settings=Settings(**described["settings"]),
                parties=tuple(map(str, described["parties"])),
                label_party=str(described["label_party"]),
                exponent=int(described["exponent"]),
                model=bytes.fromhex(described["model"]),
            )
        except OSError as error:
            raise EnvironmentFault(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, ParameterError):
            raise EnvironmentFault(f"{path} is no part of a regression that save wrote") from None
