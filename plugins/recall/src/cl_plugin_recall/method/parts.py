"""What labelling, artefacts and reports need to know of a learner."""

from __future__ import annotations

from typing import Any, Protocol

from cl_kernel import Resources, Stream
from cl_plugin_recall.method.labels import Predictor
from cl_plugin_recall.network.decoder import Decoder, Network


class Learning(Protocol):
    """A learner in the middle of a stream."""

    frozen: bool
    settings: Any
    resources: Resources
    stream: Stream
    network: Network
    encoder: Any
    decoder: Decoder
    source: Any
    sizes: list[int]

    def frozen_digest(self) -> str:
        """Digest of the encoder after step 0."""

    def number_of(self, c: int) -> int:
        """The data's own number of the c-th class learnt."""

    def predictor(self, decoder: Decoder, *, raw: bool = False) -> Predictor:
        """Label maps by a decoder."""
