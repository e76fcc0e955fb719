"""One party in the midst of a training: its networks, its secret, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secagg.conversation import Side
from secagg.errors import EnvironmentFault, InputRefused, ParameterError
from secagg.hazmat.framing import Field
from secagg.names import RandomSource, SiloId
from secagg.vertical.checkpoints import Checkpoints, agreed_step, data_digest
from secagg.vertical.split.columns import Scaling
from secagg.vertical.split.parts import SplitPart, bytes_of, columns_as_tensors, own_tensors
from secagg.vertical.split.ports import Network, Networks, RealMatrix, Tensors
from secagg.vertical.split.seeds import SEED_SIZE, Use, stream, whole_seed
from secagg.vertical.split.settings import SplitTerms
from secagg.vertical.split.tensors import encode, group_of, prefixed


class Learner:
    """Holds what a checkpoint keeps.

    Step 1 is before anything is said: it keeps the secret. Step 1 + r is after round r.

    Args:
        terms: that all agreed on.
        scaling: of this party's columns.
        networks: this party's, by name: ``"bottom"``, at the label party ``"top"`` and ``"teacher"`` too.
        seed: its secret, 32 bytes.
        data: digest of its columns and labels.
    """

    def __init__(
        self, terms: SplitTerms, scaling: Scaling, networks: Mapping[str, Network], seed: bytes, data: bytes
    ) -> None:
        self.terms = terms
        self.scaling = scaling
        self.networks = networks
        self._seed = seed
        self._data = data
        self.round = 0
        """Rounds that are behind."""

    def random(self, use: Use, *context: Field) -> RandomSource:
        """Return a source for one use in this training; the same whenever it is asked."""
        return stream(self._seed, use, self.terms.digest, *context)

    def keep(self, checkpoints: Checkpoints) -> None:
        """Save where this party is."""
        tensors = {
            **columns_as_tensors(self.scaling),
            **prefixed({name: network.state() for name, network in self.networks.items()}),
            "seed": np.frombuffer(self._seed, np.uint8),
            "data": np.frombuffer(self._data, np.uint8),
        }
        checkpoints.save(1 + self.round, encode(tensors, self.terms.digest))

    def go_on(self, tensors: Tensors, round: int) -> None:
        """Take up what ``keep`` saved after ``round``."""
        for name, network in self.networks.items():
            network.load(group_of(tensors, name))
        self.round = round

    def part(self, name: bytes) -> SplitPart:
        """Return what is left in the end: without the teacher, and without this training's secret.

        Args:
            name: of the network, as the label party gave it.
        """
        seed, bottom, top = (
            self.random("prediction")(SEED_SIZE),
            self.networks["bottom"],
            self.networks.get("top"),
        )
        return SplitPart(self.terms, name, self.scaling, bottom, top, seed)


def begun(
    terms: SplitTerms,
    own: SiloId,
    columns: RealMatrix,
    labels: RealMatrix | None,
    *,
    networks: Networks,
    checkpoints: Checkpoints,
    random: RandomSource,
) -> Side[Learner]:
    """Return this party's state where all can go on.

    Raises:
        EnvironmentFault: a checkpoint is damaged, of another training or of other networks.
        FaultySilo: a party agreed on other terms.
        InputRefused: there are more or fewer rows than records.
        ParameterError: the data are not those that the training was begun with.
    """
    others = terms.others(own)
    if len(columns) != terms.count:
        raise InputRefused("shape", f"{len(columns)} rows of columns for {terms.count} records; one each")
    step, state = yield from agreed_step(terms.digest, others, checkpoints)
    # A secret that was kept is used again, also where all begin anew: something may have left under it.
    kept = [own_tensors(content, terms) for content in ([state] if state else checkpoints.load().values())]
    data = data_digest(columns, labels)
    try:
        if any(tensors["data"].tobytes() != data for tensors in kept):
            raise ParameterError("columns or labels are not those that this training was begun with")
        seed = bytes_of(kept[0], "seed", SEED_SIZE) if kept else random(SEED_SIZE)
        learner = Learner(terms, Scaling.of(columns), _built(terms, own, columns, networks, seed), seed, data)
        if state:
            learner.go_on(kept[0], step - 1)
        else:
            learner.keep(checkpoints)
    except (KeyError, InputRefused):
        raise EnvironmentFault("a checkpoint is of other networks than these; build those it is of") from None
    return learner


def _built(
    terms: SplitTerms, own: SiloId, columns: RealMatrix, networks: Networks, seed: bytes
) -> dict[str, Network]:
    def drawn(name: str) -> int:
        return whole_seed(stream(seed, "weights", terms.digest, name))

    width = terms.settings.width
    built = {"bottom": networks.bottom(columns.shape[1], width, seed=drawn("bottom"))}
    if own == terms.label_party:
        built["top"] = networks.top(width * len(terms.parties), seed=drawn("top"))
        # It takes no embedding of the label party, whose columns so are in no gradient that leaves.
        built["teacher"] = networks.top(width * len(terms.feature_parties), seed=drawn("teacher"))
    return built
