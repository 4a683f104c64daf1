"""The learner ``remind-offline``: what the same network reaches when it may train on all data seen so far.

Omega divides by it. Scope ``upper`` trains the plastic part on all codes; scope ``whole`` the whole network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from attrs import define, field
from torch.nn import functional

from cl_kernel import Concatenation, Memory, Mismatch, Samples, Setup, Stage, StreamContext, Tree
from cl_kernel.torch import evaluate, state
from cl_kernel.torch.loaders import Batches, as_tensor
from cl_plugin_remind.method.base import BaseTrainer
from cl_plugin_remind.method.base_init import BaseInit, build_brain
from cl_plugin_remind.method.codes import Codes
from cl_plugin_remind.method.parts import Brain
from cl_plugin_remind.method.step import FEATURES, LABEL
from cl_plugin_remind.settings import Offline


def build(settings: Offline, setup: Setup) -> OfflineUpper | OfflineWhole:
    """One of the two upper bounds.

    :raises Mismatch: when scope ``upper`` has no memory for all codes.
    """
    brain = build_brain(setup)
    if settings.scope == "whole":
        return OfflineWhole(settings, setup, brain)
    if setup.memory is None:
        raise Mismatch(
            "learner remind-offline keeps all codes", where="--replay", fix="--replay remind:pq --memory all"
        )
    return OfflineUpper(settings, setup, brain, setup.memory(brain.memory_fields(setup.stream.spec)))


@define(eq=False, repr=False)
class OfflineUpper:
    """The upper part, trained anew from the base network's on all codes, at every stage."""

    settings: Offline
    parts: Setup
    brain: Brain
    memory: Memory
    ready: bool = field(init=False, default=False)
    filled: bool = field(init=False, default=False)  # this stage's codes are in the memory
    epoch: int = field(init=False, default=0)
    position: int = field(init=False, default=0)
    start: Tree = field(init=False, default=None)  # the upper part after base training
    base: BaseInit = field(init=False)
    optimizer: torch.optim.SGD = field(init=False)
    codes: Codes = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.base = BaseInit(self.settings, self.brain, self.parts)
        self.codes = Codes(self.brain, self.memory, self.parts.resources, self.settings.batch_size)
        self._new_optimizer()

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Add the stage's codes, then train on all codes so far."""
        if not self.ready:
            self.base.learn(stage, ctx)
            self.brain.freeze(upper_trains=True)
            self.start = state.pack(self.brain.upper)
            self.ready = True
            self.codes.restart()
        self.brain.freeze(upper_trains=True)
        if not self.filled:
            self.codes.remember(stage, ctx)
            state.restore(self.brain.upper, self.start)
            self._new_optimizer()
            self.filled = True
        self._train(stage, ctx)
        self.filled, self.epoch, self.position = False, 0, 0

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] (probabilities) and ``class`` int64 [n]; features are quantised."""
        if not self.ready:
            yield from evaluate.predict(self.brain.whole, Batches(samples, self.brain.device), self.settings.batch_size)
            return
        self.brain.upper.eval()
        for features in self.codes.tests(samples):
            with torch.inference_mode():
                scores = self.brain.upper(features).softmax(1)
                yield {"scores": scores.cpu().numpy(), "class": scores.argmax(1).cpu().numpy()}

    def state(self) -> Tree:
        """Network, optimiser, codes and position."""
        return {
            "network": state.pack(self.brain.whole),
            "start": self.start,
            "ready": self.ready,
            "filled": self.filled,
            "base": None if self.ready else self.base.state(),
            "optimizer": state.pack(self.optimizer),
            "memory": self.memory.state(),
            "generators": state.pack_generators(),
            "epoch": self.epoch,
            "position": self.position,
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.brain.whole, tree["network"])
        self.start, self.ready, self.filled = tree["start"], bool(tree["ready"]), bool(tree["filled"])
        if not self.ready:
            self.base.load(tree["base"])
        state.restore(self.optimizer, tree["optimizer"])
        self.memory.load(tree["memory"])
        state.restore_generators(tree["generators"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])

    def _new_optimizer(self) -> None:
        settings = self.settings
        self.optimizer = torch.optim.SGD(
            self.brain.upper.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay
        )

    def _train(self, stage: Stage, ctx: StreamContext) -> None:
        settings, size = self.settings, self.settings.batch_size
        n_all = len(self.memory)
        n_steps = settings.epochs * -(-n_all // size)
        ctx.phase("offline", n_steps)
        while self.epoch < settings.epochs:
            order = ctx.rng("offline order", stage.index, self.epoch).permutation(n_all)
            while self.position < n_all:
                old = self.memory.take(order[self.position : self.position + size])
                features = as_tensor(old[FEATURES], self.brain.device)
                labels = as_tensor(old[LABEL], self.brain.device)
                done = self.epoch * -(-n_all // size) + self.position // size
                for group in self.optimizer.param_groups:  # linear fall to zero
                    group["lr"] = settings.lr * (1 - done / n_steps)
                loss = functional.cross_entropy(self.brain.upper(features), labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.position += size
                ctx.step(loss=loss.detach())
            self.epoch, self.position = self.epoch + 1, 0


@define(eq=False, repr=False)
class OfflineWhole:
    """The whole network, trained from scratch on all images so far, at every stage, with the base schedule."""

    settings: Offline
    parts: Setup
    brain: Brain
    trainer: BaseTrainer = field(init=False)
    initial: Tree = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.initial = state.pack(self.brain.whole)
        self._new_trainer()

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Train on the samples of this and all earlier stages."""
        samples = Concatenation([earlier.train for earlier in ctx.stages[: stage.index + 1]])
        if self.trainer.epoch == self.trainer.position == 0:
            state.restore(self.brain.whole, self.initial)
            self._new_trainer()
        self.brain.open(whole=True)
        ctx.phase("offline", self.settings.base_epochs * -(-len(samples) // self.settings.base_batch))
        for _ in self.trainer.epochs(samples, ctx.step, ctx.bad_sample, max(1, ctx.resources.n_workers)):
            pass
        self.trainer.epoch = self.trainer.position = 0

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] and ``class`` int64 [n]."""
        yield from evaluate.predict(self.brain.whole, Batches(samples, self.brain.device), self.settings.batch_size)

    def state(self) -> Tree:
        """Network, optimiser and position."""
        return {
            "network": state.pack(self.brain.whole),
            "trainer": self.trainer.state(),
            "generators": state.pack_generators(),
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.brain.whole, tree["network"])
        self.trainer.load(tree["trainer"])
        state.restore_generators(tree["generators"])

    def _new_trainer(self) -> None:
        self.trainer = BaseTrainer(self.settings, self.brain.whole, self.brain.device, self.parts.resources.rng)
