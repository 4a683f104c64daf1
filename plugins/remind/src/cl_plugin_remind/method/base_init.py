"""Base initialisation: the network of a run, and how the learners come by its trained weights."""

from __future__ import annotations

import attrs
import torch
from attrs import define, field

from cl_kernel import Identity, Mismatch, Setup, Stage, StreamContext, Tree
from cl_kernel.torch import state
from cl_kernel.torch.device import resolve
from cl_kernel.torch.shared_features import Sharing
from cl_plugin_remind.method.base import BaseTrainer
from cl_plugin_remind.method.parts import Brain, set_tf32
from cl_plugin_remind.network.resnet import Base
from cl_plugin_remind.settings import BaseTraining
from cl_plugin_remind.weights import checkpoints


def build_brain(setup: Setup) -> Brain:
    """The network of a run, its weights drawn from the run's seed."""
    if setup.model is None:
        raise Mismatch("this learner needs a network", where="--model", fix="--model remind:resnet18")
    state.seed_torch(setup.resources.rng("torch"))
    model = setup.model(setup.stream.spec, setup.stream.n_classes)
    brain = Brain.of(model, resolve(setup.resources.device))
    if brain.keeps_lower and model.pretrained:
        brain.sharing = Sharing(setup.resources)
    return brain


@define(eq=False, repr=False)
class BaseInit:
    """The base network: from a checkpoint, from the cache of an equal earlier run, or trained here.

    :raises BadInput: for a checkpoint that does not fit. :raises MissingAsset: when there is none.
    """

    settings: BaseTraining
    brain: Brain
    parts: Setup
    trainer: BaseTrainer = field(init=False)
    beginning: Identity = field(init=False)  # of the weights before base training

    def __attrs_post_init__(self) -> None:
        settings, whole, resources = self.settings, self.brain.whole, self.parts.resources
        if self.brain.device.type == "cuda":
            set_tf32(settings.tf32)
        if settings.base:
            network = whole.model if isinstance(whole, Base) else whole
            path = checkpoints.find_base(settings.base, resources.roots)
            checkpoints.load_base(network, path, new_head=settings.new_head)
        self.beginning = resources.identify("remind-beginning", network=str(whole), tensors=state.pack(whole))
        frozen = self.brain.lower if self.scope == "upper" else None
        self.trainer = BaseTrainer(settings, whole, self.brain.device, resources.rng, frozen)

    @property
    def scope(self) -> str:
        """What base training trains: ``whole``, ``upper`` or ``none``."""
        settings = self.settings
        if settings.base_epochs == 0:
            return "none"
        if settings.base_scope != "auto":
            return settings.base_scope
        if settings.base:
            return "upper" if settings.new_head else "none"
        return "upper" if self.brain.keeps_lower else "whole"

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Leave the trained base network in the brain."""
        settings, whole = self.settings, self.brain.whole
        if self.scope == "none":
            return
        artefact = ctx.artefact(
            "remind-base",
            settings=BaseTraining(**{a.name: getattr(settings, a.name) for a in attrs.fields(BaseTraining)}),
            beginning=self.beginning,
            scope=self.scope,
            stage=stage,
            seed=self.parts.resources.seed,
            device=self.brain.device.type,
        )
        with artefact.claimed():
            if (known := artefact.found()) is not None:
                state.assign(whole, state.read_weights(known / "base.pth"), where=str(known / "base.pth"))
                return
            self.brain.open(whole=self.scope == "whole")
            ctx.phase("base network", settings.base_epochs * -(-len(stage.train) // settings.base_batch))
            for _ in self.trainer.epochs(stage.train, ctx.step, ctx.bad_sample, max(1, ctx.resources.n_workers)):
                pass
            artefact.make(lambda folder: torch.save(whole.state_dict(), folder / "base.pth"))

    def state(self) -> Tree:
        """Position and optimiser of base training."""
        return self.trainer.state()

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.trainer.load(tree)
