"""Joint training: every stage trains on all samples seen so far; the upper bound.

By default each stage begins with the initial weights, so that the last one is an ordinary training on everything.

Shapes: n a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.data.samples import Concatenation
from cl_kernel.methods.base import Optimiser, grown_state, make_optimizer
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup
    from cl_kernel.torch.split import Split, TestCache


@frozen(kw_only=True)
class Settings(Optimiser):
    """Upper bound: training on everything seen so far."""

    restart: bool = field(default=True, metadata=doc("begin each stage with the initial weights"))


@define(eq=False, repr=False)
class Joint:
    """Train on all stages seen so far, by default from the initial weights each time."""

    augments: ClassVar[bool] = True

    settings: Settings
    network: Split
    device: torch.device
    initial: Tree
    optimizer: torch.optim.Optimizer = field(init=False)
    n_bytes: Sequence[int]
    """Of the samples of each stage."""
    epoch: int = 0
    position: int = 0
    n_learnt: int = 0
    _tests: TestCache = field(init=False)

    def __attrs_post_init__(self) -> None:
        from cl_kernel.torch.split import TestCache

        self._tests = TestCache()
        self.optimizer = make_optimizer(self.network.upper, self.settings)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: epochs over the samples of this and all earlier stages."""
        from cl_kernel.torch import state
        from cl_kernel.torch.split import train_batches

        settings = self.settings
        samples = Concatenation([earlier.train for earlier in ctx.stages[: stage.index + 1]])
        batches = train_batches(self.network, samples, self.device, ctx)
        if settings.restart and self.epoch == self.position == 0:
            state.restore(self.network, self.initial)
            self.optimizer = make_optimizer(self.network.upper, settings)
        self.network.train()
        ctx.phase("train", settings.epochs * -(-len(samples) // settings.batch_size))

        while self.epoch < settings.epochs:
            order = ctx.rng("order", stage.index, self.epoch).permutation(len(samples))
            for _, inputs, targets in batches(order, settings.batch_size, self.position):
                loss = F.cross_entropy(self.network.upper(inputs), targets)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.position += settings.batch_size
                ctx.step(loss=loss.detach())
            self.epoch, self.position = self.epoch + 1, 0
        self.epoch = self.position = 0
        self.n_learnt = stage.index + 1

    def holds(self) -> dict[str, int]:
        """All samples seen so far."""
        return {"samples": sum(self.n_bytes[: self.n_learnt])}

    def reserve(self) -> int:
        """The samples of the whole stream."""
        return sum(self.n_bytes)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] (logits) and ``class`` int64 [n], batch by batch."""
        yield from self._tests.predict(self.network, samples, self.device, self.settings.predict_batch)

    def state(self) -> Tree:
        """Weights, optimiser, generators and position in the stage."""
        from cl_kernel.torch import state

        return {
            "network": state.pack(self.network),
            "optimizer": state.pack(self.optimizer),
            "generators": state.pack_generators(),
            "epoch": self.epoch,
            "position": self.position,
            "n_learnt": self.n_learnt,
        }

    def grow(self, tree: Tree) -> Tree:
        """The state of a learner of fewer classes, for :meth:`load`."""
        return grown_state(tree, self.state(), self.optimizer)

    def load(self, tree: Tree) -> None:
        """Go on from what :meth:`state` gave."""
        from cl_kernel.torch import state

        state.restore(self.network, tree["network"])
        state.restore(self.optimizer, tree["optimizer"])
        state.restore_generators(tree["generators"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])
        self.n_learnt = int(tree.get("n_learnt", 0))


def build(settings: Settings, setup: Setup) -> Joint:
    """Learner ``joint``."""
    from cl_kernel.torch.split import build_network
    from cl_kernel.torch.state import pack

    network, device = build_network(setup)
    each = sum(spec.nbytes for spec in setup.stream.spec.values())
    return Joint(settings, network, device, pack(network), [each * len(stage.train) for stage in setup.stream.stages])
