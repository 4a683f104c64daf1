"""Base initialisation: the network of a run, and how the learners come by its trained weights."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from attrs import define, field

from cl_kernel import Mismatch, Setup, Stage, StreamContext, Tree
from cl_kernel.torch import state
from cl_kernel.torch.device import resolve
from cl_plugin_remind.method.base import BaseTrainer
from cl_plugin_remind.method.parts import Brain
from cl_plugin_remind.network.resnet import Base
from cl_plugin_remind.settings import BaseTraining
from cl_plugin_remind.weights import checkpoints

BASE_FIELDS = tuple(a.name for a in attrs.fields(BaseTraining))


def build_brain(setup: Setup) -> Brain:
    """The network of a run, its weights drawn from the run's seed."""
    if setup.model is None:
        raise Mismatch("this learner needs a network", where="--model", fix="--model remind:resnet18")
    state.seed_torch(setup.resources.rng("torch"))
    return Brain.of(setup.model(setup.stream.spec, setup.stream.n_classes), resolve(setup.resources.device))


@define(eq=False, repr=False)
class BaseInit:
    """The base network: from a checkpoint, from the cache of an equal earlier run, or trained here."""

    settings: BaseTraining
    brain: Brain
    parts: Setup
    trainer: BaseTrainer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.trainer = BaseTrainer(self.settings, self.brain.whole, self.brain.device, self.parts.resources.rng)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Leave the trained base network in the brain.

        :raises BadInput: for a checkpoint that does not fit.
        """
        settings, whole = self.settings, self.brain.whole
        if settings.base:
            network = whole.model if isinstance(whole, Base) else whole
            checkpoints.load_base(network, settings.base, new_head=settings.new_head)
            return
        inputs = self.inputs(stage)
        known = ctx.cache.folder("remind-base", inputs)
        if known is not None:
            state.assign(whole, state.read_weights(known / "base.pth"), where=str(known / "base.pth"))
            return
        self.brain.thaw()
        ctx.phase("base network", settings.base_epochs * -(-len(stage.train) // settings.base_batch))
        for _ in self.trainer.epochs(stage.train, ctx.step, ctx.bad_sample, max(1, ctx.resources.n_workers)):
            pass
        ctx.cache.make("remind-base", inputs, lambda folder: torch.save(whole.state_dict(), folder / "base.pth"))

    def inputs(self, stage: Stage) -> dict[str, Any]:
        """All that the base network depends on."""
        stream = self.parts.stream
        shapes = {name: list(tensor.shape) for name, tensor in self.brain.whole.state_dict().items()}
        return {
            "settings": {name: getattr(self.settings, name) for name in BASE_FIELDS},
            "shapes": shapes,
            "network": str(self.brain.whole),
            "data": stream.fingerprint or stream.name,
            "classes": list(stage.classes),
            "n": len(stage.train),
            "seed": self.parts.resources.seed,
            "device": self.brain.device.type,
            "skipped": sorted(self.parts.resources.skipped),
            "torch": torch.__version__,
        }

    def state(self) -> Tree:
        """Position and optimiser of base training."""
        return self.trainer.state()

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.trainer.load(tree)
