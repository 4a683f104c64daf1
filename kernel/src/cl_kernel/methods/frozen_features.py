"""What methods for frozen networks share: one pass over each stage, no gradient, statistics of features.

The features are what enters the network's score layer, averaged over a map. Statistics are float64.

Shapes: B batch, D features, K classes of the stream, k classes seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from cl_kernel.methods.base import Reading, predictions
from cl_kernel.methods.exemplar_sets import embed, n_features, score_layer
from cl_kernel.methods.lazy import torch
from cl_kernel.methods.seen_classes import SeenClasses

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup

R = TypeVar("R", bound=Reading, covariant=True)


class OnePass(Generic[R]):
    """A frozen network and statistics of its features that a pass over the stream updates.

    ``statistics`` holds tensors by name; a method fills them in :meth:`update` and reads them in :meth:`scorer`.
    """

    augments: ClassVar[bool] = True

    def __init__(self, settings: R, setup: Setup) -> None:
        from cl_kernel.torch.split import build_network

        self.settings = settings
        self.network, self.device = build_network(setup)
        self.network.eval().requires_grad_(False)
        score_layer(self.network.upper)
        self.n_classes = setup.stream.n_classes
        self.seen = SeenClasses()
        self.position = 0
        self.statistics: dict[str, Tensor] = {}

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One pass over a stage."""
        from cl_kernel.torch.loaders import label_name
        from cl_kernel.torch.split import train_batches

        self.seen.extend(stage, label_name(stage.train.spec))
        n, size = len(stage.train), self.settings.batch_size
        ctx.phase("train", -(-n // size))
        batches = train_batches(self.network, stage.train, self.device, ctx)
        for _, inputs, labels in batches(np.arange(n), size, self.position):
            features = self.features(inputs)
            if not self.statistics:
                self.statistics = self.blank(features.shape[1])
            self.update(features, self.seen.columns_of(labels))
            self.position += size
            ctx.step()
        self.position = 0

    def features(self, inputs: Tensor) -> Tensor:
        """Features [B, D] of what the learning part of the network reads, float64."""
        with torch.no_grad():
            return embed(self.network.upper, inputs)[0].double()

    def zeros(self, *shape: int) -> Tensor:
        """A statistic without observations."""
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def blank(self, n_features: int) -> dict[str, Tensor]:
        """Statistics without observations, by name."""
        raise NotImplementedError

    def update(self, features: Tensor, columns: Tensor) -> None:
        """Count a batch: features [B, D] and score columns [B]."""
        raise NotImplementedError

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Features [B, D] -> scores [B, k], from the statistics as they are."""
        raise NotImplementedError

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K], classes not seen yet at minus infinity, and ``class`` int64 [n]."""
        score = self.scorer() if self.statistics else lambda features: features[:, :0]
        order, size = self.seen.order, self.settings.predict_batch
        yield from predictions(
            self.network, self.device, samples, lambda x: score(self.features(x)), order, self.n_classes, size
        )

    def holds(self) -> dict[str, int]:
        """Bytes of the statistics."""
        size = sum(value.numel() * value.element_size() for value in self.statistics.values())
        return {"statistics": size} if size else {}

    def reserve(self) -> int:
        """Bytes of the statistics, known before the first sample."""
        blank = self.blank(n_features(self.network.upper))
        return sum(value.numel() * value.element_size() for value in blank.values())

    def state(self) -> Tree:
        """Weights, statistics, classes seen, position; torch's generator where views are drawn from it."""
        from cl_kernel.torch.state import pack, pack_generators

        drawn = {} if self.network.view is None else {"generators": pack_generators()}
        return {
            **drawn,
            "network": pack(self.network),
            "statistics": pack(self.statistics),
            "seen": self.seen.state(),
            "position": self.position,
        }

    def grow(self, tree: Tree) -> Tree:
        """The state of a learner of fewer classes, for :meth:`load`: classes to come have no observations."""
        from cl_kernel.running.growing import grown
        from cl_kernel.torch.state import pack

        blank = self.blank(self.n_features()) if tree["statistics"] else {}
        return grown(tree, {**self.state(), "statistics": pack(blank)})

    def n_features(self) -> int:
        """How many numbers describe a sample: inputs of the score layer."""
        layer: Any = score_layer(self.network.upper)
        return int(layer.weight.shape[1])

    def load(self, tree: Tree) -> None:
        """Go on from what :meth:`state` gave."""
        from cl_kernel.torch.state import restore, restore_generators, unpack

        if "generators" in tree:
            restore_generators(tree["generators"])
        restore(self.network, tree["network"])
        self.statistics = {name: value.to(self.device) for name, value in unpack(tree["statistics"]).items()}
        self.seen.load(tree["seen"])
        self.position = int(tree["position"])
