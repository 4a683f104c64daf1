"""Train a transformer that answers instructions.

Shapes: B batch, K classes, H outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import define, field
from torch import Tensor, nn

from cl_kernel import BadSetting, Samples, Setup, Stage
from cl_kernel.torch import device, state
from cl_plugin_butd.method.inputs import CHUNK, Inputs, batches
from cl_plugin_butd.method.schedule import cyclic_rate
from cl_plugin_butd.network.transformers import (
    TaskSelectEncoder,
    TaskSelectEncoderDecoder,
    TaskSelectTwoStream,
    VitShape,
)
from cl_plugin_butd.weights.start import start_from, transformer

if TYPE_CHECKING:
    from cl_kernel import StreamContext
    from cl_plugin_butd.settings import Vit

HUB_KINDS = ("multi-label", "right-of-all", "guided", "vanilla", "pit")


def build(settings: Vit, setup: Setup) -> VitLearner:
    """The transformer of the stream's instructions."""
    if settings.hub and settings.kind not in HUB_KINDS:
        raise BadSetting(
            f"kind {settings.kind} is trained from scratch: it takes no pretrained model",
            where="learner.hub",
            fix=f"leave it empty, or use learner.kind={', '.join(HUB_KINDS)}",
        )
    if settings.kind == "encoder-decoder" and settings.deepest_first and settings.decoder_layers > settings.layers + 1:
        raise BadSetting(
            f"{settings.decoder_layers} decoder layers read deepest first, but there are {settings.layers + 1} states",
            where="learner.decoder_layers",
            fix=f"use at most {settings.layers + 1}, or learner.deepest_first=false",
        )
    stream, where = setup.stream, device.resolve(setup.resources.device)
    n_tasks = stream.spec["task"].n or 1
    n_arguments = int(stream.info.get("n_arguments", [stream.spec["argument"].n])[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(setup.resources.rng("weights").integers(2**62)))
        net = network(settings, n_tasks, n_arguments, stream.n_classes).to(where)
    if settings.weights:
        start_from(net, settings.weights, partial(transformer, net=net))
    return VitLearner(settings, net, Inputs("centred", where), setup, n_tasks, n_arguments)


def network(s: Vit, n_tasks: int, n_arguments: int, n_classes: int) -> nn.Module:
    """A transformer by kind."""
    shape = VitShape(hidden=s.hidden, ffn=s.ffn, layers=s.layers, heads=s.heads)
    common: dict[str, Any] = {"image": s.image, "n_tasks": n_tasks, "n_arguments": n_arguments, "n_classes": n_classes}
    match s.kind:
        case "encoder":
            return TaskSelectEncoder(shape, patch=s.patch, **common)
        case "encoder-decoder":
            decoder = VitShape(hidden=s.decoder_hidden, ffn=s.decoder_ffn, layers=s.decoder_layers, heads=s.heads)
            return TaskSelectEncoderDecoder(shape, decoder, patch=s.patch, deepest_first=s.deepest_first, **common)
        case "two-stream":
            return TaskSelectTwoStream(shape, patch=s.patch, mix=s.mix, self_attention=s.self_attention, **common)
    from cl_plugin_butd.network.hub import CctInstructed, HubVit, PitInstructed

    if s.kind == "cct":
        return CctInstructed(**common)
    if s.kind == "pit":
        return PitInstructed(name=s.hub or "pit_ti_224", pretrained=bool(s.hub), **common)
    outputs = {"multi-label": (2, n_arguments), "right-of-all": (n_classes, n_arguments)}
    classes, heads = outputs.get(s.kind, (n_classes, 1))
    return HubVit(
        hidden=s.hidden,
        layers=s.layers,
        heads=s.heads,
        ffn=s.ffn,
        image=s.image,
        patch=s.patch,
        n_classes=classes,
        n_outputs=heads,
        guided=(n_tasks, n_arguments) if s.kind == "guided" else None,
        hub=s.hub,
    )


@define(eq=False)
class VitLearner:
    """See the module; ``position`` is (stage, epoch, batch) of the next step."""

    settings: Vit
    net: nn.Module
    inputs: Inputs
    setup: Setup
    n_tasks: int
    n_arguments: int
    optimizer: torch.optim.Optimizer = field(init=False)
    position: list[int] = field(factory=lambda: [0, 0, 0])

    def __attrs_post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.net.parameters(), self.settings.lr)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Train on one stage, from wherever the position says."""
        s, n = self.settings, len(stage.train)
        if self.position[0] != stage.index:
            self.position = [stage.index, 0, 0]
        per_epoch = len(batches(n, s.batch_size, np.arange(n)))
        ctx.phase(f"{s.kind}: {stage.name}", s.epochs * per_epoch)
        self.net.train()
        for epoch in range(self.position[1], s.epochs):
            plan = batches(n, s.batch_size, ctx.rng("order", stage.index, epoch).permutation(n))
            for step in range(self.position[2] if epoch == self.position[1] else 0, per_epoch):
                batch = self.inputs.batch(stage.train, plan[step], ("image", "task", "argument", "existence", "class"))
                rate = cyclic_rate(epoch, 1e-4, 2e-3, 5) if s.cyclic else s.lr
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                loss = self._loss(self._run(batch["image"], batch["task"], batch["argument"]), batch)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                last = step + 1 == per_epoch
                self.position = [stage.index, epoch + last, 0 if last else step + 1]
                if last and epoch + 1 == s.epochs:
                    self.position = [stage.index + 1, 0, 0]
                ctx.step(loss=loss.detach())

    def _run(self, image: Tensor, task: Tensor, argument: Tensor) -> Tensor:
        """Logits [B, K] or [B, K, H] of uint8 pictures."""
        x = self.inputs.pixels(image)
        x = F.interpolate(x, size=(self.settings.image, self.settings.image), mode="bilinear", align_corners=False)
        return self.net(x, F.one_hot(task, self.n_tasks).float(), F.one_hot(argument, self.n_arguments).float())

    def _loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        match self.settings.kind:
            case "multi-label":
                return F.cross_entropy(logits, batch["existence"].long())
            case "right-of-all":
                rows = torch.arange(len(logits), device=logits.device)
                return F.cross_entropy(logits[rows, :, batch["argument"]], batch["class"])
        return F.cross_entropy(logits if logits.dim() == 2 else logits[..., 0], batch["class"])

    def predict(self, samples: Samples) -> Iterator[dict[str, np.ndarray]]:
        """Scores [n, K] and classes; presence logits for the multi-label net."""
        training = self.net.training
        self.net.eval()
        try:
            with torch.no_grad():
                for start in range(0, len(samples), CHUNK):
                    taken = samples.take(
                        np.arange(start, min(start + CHUNK, len(samples))), ["image", "task", "argument"]
                    )
                    image, task, argument = (
                        torch.from_numpy(taken[k]).to(self.inputs.device) for k in ("image", "task", "argument")
                    )
                    logits = self._run(image, task, argument).float()
                    if self.settings.kind == "multi-label":
                        yield {"occurrence": (logits[:, 1] - logits[:, 0]).cpu().numpy()}
                        continue
                    if self.settings.kind == "right-of-all":
                        logits = logits[torch.arange(len(logits), device=logits.device), :, argument]
                    scores = (logits if logits.dim() == 2 else logits[..., 0]).cpu().numpy()
                    yield {"scores": scores, "class": scores.argmax(1)}
        finally:
            self.net.train(training)

    def state(self) -> dict[str, Any]:
        """Weights, optimiser, position."""
        return {"net": state.pack(self.net), "optimizer": state.pack(self.optimizer), "position": list(self.position)}

    def load(self, tree: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.net, tree["net"])
        state.restore(self.optimizer, tree["optimizer"])
        self.position = [int(v) for v in tree["position"]]
