"""Joint prediction: one party gets scores, and embeddings, clipped and noised, of all others.

It takes the top to score. Where the label party is not the one that is to have them, it hands the top's
weights to the one that is, and sees no score.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo, InputRefused, MalformedMessage, ParameterError
from secagg.names import RealVector, SiloId
from secagg.payload import Payload
from secagg.vertical.checkpoints import InMemory, agreed_step
from secagg.vertical.split.messages import Embeddings, TopShared
from secagg.vertical.split.parts import SplitPart
from secagg.vertical.split.ports import Network, Networks, RealMatrix
from secagg.vertical.split.seeds import content, stream
from secagg.vertical.split.settings import PredictionTerms
from secagg.vertical.split.tensors import decode, encode
from secagg.vertical.split.training import probability


def prediction_side(
    terms: PredictionTerms, own: SiloId, part: SplitPart, columns: RealMatrix, *, networks: Networks
) -> Side[RealVector | None]:
    """Score the records of an alignment together.

    Args:
        terms: that all agreed on.
        own: this party's name.
        part: its part of the network.
        columns: of the aligned records, shape (count, columns).
        networks: builds the top, at the party that gets it.

    Returns:
        Probabilities of label 1, float64, shape (count,), at the party that is to get them; None elsewhere.

    Raises:
        FaultySilo: a party left the protocol, or has a part of another network.
        InputRefused: the columns are not as described.
        ParameterError: the part is of another training.

    Guarantees:
        Nobody but ``terms.to`` receives anything that a score could be made from.
        No embedding leaves but clipped and noised, with the same noise if it leaves again.
    """
    training, settings = terms.training, terms.training.settings
    if part.terms != training:
        raise ParameterError("this part is of another training than the one that is to predict")
    if len(columns) != terms.count:
        raise InputRefused("shape", f"{len(columns)} rows of columns for {terms.count} records; one each")
    others = training.others(own)
    yield from agreed_step(terms.agreed(part.name), others, InMemory())
    made = part.embed(columns)
    if own != terms.to:
        if part.top is not None:
            weights = encode(part.top.weights(), terms.digest)
            yield from say(terms.to, TopShared(Payload.of(np.frombuffer(weights, np.uint8))))
        noise = stream(part.seed, "prediction", terms.digest, content(made))
        yield from say(terms.to, Embeddings(settings.embeddings.release(made, random=noise)))
        return None
    top = (yield from _top(terms, networks)) if part.top is None else part.top
    embedded = {own: settings.embeddings.clipped(made)}
    for other in others:
        message = yield from hear(other, Embeddings)
        embedded[other] = settings.embeddings.received(other, message.rows, terms.count)
    order = (training.label_party, *training.feature_parties)
    return probability(top.forward(np.concatenate([embedded[name] for name in order], axis=1))[:, 0])


def _top(terms: PredictionTerms, networks: Networks) -> Side[Network]:
    """Take the top from the label party."""
    training = terms.training
    message = yield from hear(training.label_party, TopShared)
    top = networks.top(training.settings.width * len(training.parties), seed=0)
    try:
        tensors = decode(bytes(message.weights.buffer()[:]), terms.digest)
        if set(tensors) != set(top.weights()) or not all(map(_finite, tensors.values())):
            raise MalformedMessage("weights are of other names, or not finite")
        top.load(tensors)
    except (MalformedMessage, InputRefused):
        raise FaultySilo(training.label_party, "it sent no weights of a top of the agreed shape") from None
    return top


def _finite(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and bool(np.isfinite(array).all())
