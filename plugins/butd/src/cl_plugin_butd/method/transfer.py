"""Carry a pretrained net to a stream of further data sets, changing as little as the method allows.

Shapes: B batch, K classes of the stream.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import define, field
from torch import Tensor

from cl_kernel import Samples, Setup, Stage
from cl_kernel.torch import device, state
from cl_plugin_butd.method.inputs import CHUNK, Inputs, batches
from cl_plugin_butd.method.regularisers import distillation
from cl_plugin_butd.method.schedule import step_rate
from cl_plugin_butd.network.backbones import Carried, backbone

if TYPE_CHECKING:
    from cl_kernel import StreamContext
    from cl_plugin_butd.settings import Transfer

KINDS = {"modulation": "interp", "masks": "mask"}


def build(settings: Transfer, setup: Setup) -> TransferLearner:
    """The net with a head for each stage; task 0 is the pretrained net itself."""
    where = device.resolve(setup.resources.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(setup.resources.rng("weights").integers(2**62)))
        net, width = backbone(settings.net, pretrained=settings.pretrained, weights=settings.weights)
        kind = KINDS.get(settings.method, "none")
        if kind == "interp" and settings.expansion == "repeat":
            kind = "weight-1m"
        # without library weights, stage 0 is the pretraining; with them, every stage is a further task
        first = 0 if not (settings.pretrained or settings.weights) else 1
        sizes = [1] * first + [len(stage.classes) for stage in setup.stream.stages]
        carried = Carried(
            net,
            width,
            sizes,
            kind=kind,
            factor=[*settings.factor, 1, 1][:4] if kind == "weight-1m" else settings.factor,
            mode=settings.expansion,
            tau=settings.tau,
            hidden=settings.hidden,
        )
    return TransferLearner(settings, carried.to(where), Inputs("centred", where), setup, first)


@define(eq=False)
class TransferLearner:
    """See the module; ``position`` is (stage, epoch, batch) of the next step."""

    settings: Transfer
    net: Carried
    inputs: Inputs
    setup: Setup
    first: int
    optimizer: torch.optim.Optimizer = field(init=False)
    teacher: Carried | None = None
    position: list[int] = field(factory=lambda: [0, 0, 0])

    def __attrs_post_init__(self) -> None:
        self.optimizer = self.new_optimizer(0)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Learn one data set, from wherever the position says."""
        s, task = self.settings, stage.index + self.first
        if self.position[0] != stage.index or self.position[1:] == [0, 0]:
            self.position = [stage.index, 0, 0]
            self.optimizer = self.new_optimizer(stage.index)
            self.teacher = None
            if s.method == "lwf" and stage.index:
                self.teacher = copy.deepcopy(self.net).eval().requires_grad_(False)
        n = len(stage.train)
        per_epoch = len(batches(n, s.batch_size, np.arange(n)))
        ctx.phase(f"{s.method}: {stage.name}", s.epochs * per_epoch)
        lookup = torch.full((self.setup.stream.n_classes,), -1, device=self.inputs.device)
        lookup[torch.tensor(stage.classes)] = torch.arange(len(stage.classes), device=self.inputs.device)
        top = s.first_lr if task == 0 else s.lr
        self.net.train()
        for epoch in range(self.position[1], s.epochs):
            plan = batches(n, s.batch_size, ctx.rng("order", stage.index, epoch).permutation(n))
            for step in range(self.position[2] if epoch == self.position[1] else 0, per_epoch):
                batch = self.inputs.batch(stage.train, plan[step], ("image", "class"))
                image = self.inputs.pixels(batch["image"])
                for group in self.optimizer.param_groups:
                    group["lr"] = step_rate(epoch, top, s.step_every, 0.1)
                loss = self._step(image, lookup[batch["class"]], task)
                last = step + 1 == per_epoch
                self.position = [stage.index, epoch + last, 0 if last else step + 1]
                if last and epoch + 1 == s.epochs:
                    self.net.store(task)
                    self.position = [stage.index + 1, 0, 0]
                ctx.step(loss=loss)

    def _step(self, image: Tensor, labels: Tensor, task: int) -> Tensor:
        """One optimiser step."""
        loss = F.cross_entropy(self.net(image, task), labels)
        if self.teacher is not None:
            self.net.eval()
            for old in range(self.first, task):
                with torch.no_grad():
                    theirs = self.teacher(image, old)
                loss = loss + self.settings.strength * distillation(
                    self.net(image, old), theirs, temperature=self.settings.temperature
                )
            self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def new_optimizer(self, stage: int) -> torch.optim.Optimizer:
        """Choose what a stage may change, and a fresh Adam for it."""
        task, s = stage + self.first, self.settings
        mine = {id(p) for p in self.net.owned(task)}
        everyone = {id(p) for t in range(len(self.net.heads)) for p in self.net.owned(t)}
        for p in self.net.parameters():
            shared = id(p) not in everyone
            p.requires_grad_(id(p) in mine or (shared and (task == 0 or s.method in ("full", "lwf"))))
        return torch.optim.Adam(
            [p for p in self.net.parameters() if p.requires_grad], s.lr, weight_decay=s.weight_decay
        )

    def predict(self, samples: Samples) -> Iterator[dict[str, np.ndarray]]:
        """Scores over all classes; a sample is answered by the head of the stage its class belongs to.

        The task is known at test time, as in the paper: other stages' classes score -inf.
        """
        training = self.net.training
        self.net.eval()
        stages = self.setup.stream.stages
        owner = np.full(self.setup.stream.n_classes, -1)
        for stage in stages:
            owner[list(stage.classes)] = stage.index
        try:
            with torch.no_grad():
                for start in range(0, len(samples), CHUNK):
                    taken = samples.take(np.arange(start, min(start + CHUNK, len(samples))), ["image", "class"])
                    image = self.inputs.pixels(torch.from_numpy(taken["image"]).to(self.inputs.device))
                    belongs = owner[taken["class"]]
                    scores = np.full((len(belongs), self.setup.stream.n_classes), -np.inf, np.float32)
                    for index in np.unique(belongs):
                        rows = np.flatnonzero(belongs == index)
                        logits = self.net(image[torch.from_numpy(rows)], int(index) + self.first)
                        scores[np.ix_(rows, stages[index].classes)] = logits.float().cpu().numpy()
                    yield {"scores": scores, "class": scores.argmax(1)}
        finally:
            self.net.train(training)

    def state(self) -> dict[str, Any]:
        """Weights, statistics, optimiser, teacher, position."""
        return {
            "net": state.pack(self.net),
            "optimizer": state.pack(self.optimizer),
            "position": list(self.position),
            "teacher": None if self.teacher is None else state.pack(self.teacher),
        }

    def load(self, tree: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.position = [int(v) for v in tree["position"]]
        state.restore(self.net, tree["net"])
        last = len(self.setup.stream.stages) - 1
        inside = self.position[1:] != [0, 0]
        self.optimizer = self.new_optimizer(min(self.position[0] if inside else max(self.position[0] - 1, 0), last))
        state.restore(self.optimizer, tree["optimizer"])
        self.teacher = None
        if tree["teacher"] is not None:
            self.teacher = copy.deepcopy(self.net).eval().requires_grad_(False)
            state.restore(self.teacher, tree["teacher"])
