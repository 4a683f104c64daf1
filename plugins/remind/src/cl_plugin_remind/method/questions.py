"""The learner ``remind-vqa``: base training on the first stage, then one question at a time with replay.

Modes: ``remind`` (replay), ``stream`` (fine-tuning), ``full`` (offline on everything so far at every boundary),
``offline`` (once, on the whole stream). Shapes: n a batch, L words, R regions, D channels, A answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel import Concatenation, Memory, Mismatch, Samples, Setup, Stage, StreamContext, Tree
from cl_kernel.torch import state
from cl_kernel.torch.device import resolve
from cl_kernel.torch.loaders import as_tensor
from cl_plugin_remind.method import answer_files
from cl_plugin_remind.method.pq import decode_regions
from cl_plugin_remind.network.words import read_words, set_words, word_dim
from cl_plugin_remind.settings import Vqa

CODES, QUESTION, LENGTH, ANSWER = "codes", "question", "length", "answer"
READ = (CODES, QUESTION, LENGTH, ANSWER)


def build(settings: Vqa, setup: Setup) -> VqaLearner:
    """The learner; mode ``remind`` needs a memory.

    :raises Mismatch: without a network, or without a memory for mode ``remind``.
    """
    if setup.model is None:
        raise Mismatch("this learner needs a network", where="--model", fix="--model remind:vqa")
    device = resolve(setup.resources.device)
    state.seed_torch(setup.resources.rng("torch"))
    spec = setup.stream.spec
    network = setup.model(spec, spec[ANSWER].n)
    if settings.words:
        words = setup.stream.info["words"]
        set_words(network, read_words(Path(settings.words).expanduser(), words, word_dim(network), settings.dictionary))
    network = network.to(device)
    memory = setup.memory({name: spec[name] for name in READ}) if setup.memory and settings.mode == "remind" else None
    if settings.mode == "remind" and memory is None:
        raise Mismatch("mode 'remind' needs a memory", where="--replay", fix="--replay largest-class+raw --memory all")
    return VqaLearner(settings, setup, network, memory, device)


@define(eq=False, repr=False)
class VqaLearner:
    """Adamax on mean cross entropy; the memory keeps codes of images and words of questions."""

    settings: Vqa
    parts: Setup
    network: nn.Module
    memory: Memory | None
    device: torch.device
    optimizer: torch.optim.Adamax = field(init=False)
    epoch: int = field(init=False, default=0)
    position: int = field(init=False, default=0)
    shadow: dict[str, Tensor] = field(init=False, factory=dict)
    initial: Tree = field(init=False)
    centroids: Tensor = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.centroids = torch.from_numpy(self.parts.stream.info["centroids"]).to(self.device)
        self.initial = state.pack(self.network)
        self._restart()

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Base training on the first stage; afterwards what the mode says."""
        mode = self.settings.mode
        if mode == "offline":
            if stage.index == 0:
                self._epochs(Concatenation([s.train for s in ctx.stages]), stage, ctx)
        elif mode == "full":
            if self.epoch == self.position == 0:
                state.restore(self.network, self.initial)
                self._restart()
            self._epochs(Concatenation([s.train for s in ctx.stages[: stage.index + 1]]), stage, ctx)
        elif stage.index == 0:
            self._epochs(stage.train, stage, ctx)
            if self.memory is not None:
                self._remember(stage.train, np.arange(len(stage.train)))
        else:
            self._stream(stage, ctx)
        self.epoch = self.position = 0
        if self.settings.authors_files:
            answer_files.write(self, stage, ctx)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, A] and ``class`` int64 [n], the answer."""
        own = {name: parameter.detach().clone() for name, parameter in self.network.named_parameters()}
        self.network.eval()
        if self.shadow:
            self._put(self.shadow)
        try:
            for at in range(0, len(samples), self.settings.predict_batch):
                rows = np.arange(at, min(at + self.settings.predict_batch, len(samples)))
                with torch.inference_mode():
                    question, image, length, _ = self._tensors(samples.take(rows, READ))
                    scores = self.network(question, image, length)
                    found = scores.argmax(1)
                yield {"scores": scores.float().cpu().numpy(), "class": found.cpu().numpy()}
        finally:
            if self.shadow:
                self._put(own)

    def state(self) -> Tree:
        """Network, optimiser, averages, memory, generators, position."""
        return {
            "network": state.pack(self.network),
            "optimizer": state.pack(self.optimizer),
            "shadow": state.pack(self.shadow),
            "memory": self.memory.state() if self.memory is not None else None,
            "generators": state.pack_generators(),
            "epoch": self.epoch,
            "position": self.position,
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.network, tree["network"])
        state.restore(self.optimizer, tree["optimizer"])
        self.shadow = {name: tensor.to(self.device) for name, tensor in state.unpack(tree["shadow"]).items()}
        if self.memory is not None:
            self.memory.load(tree["memory"])
        state.restore_generators(tree["generators"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])

    # ---- loops ------------------------------------------------------------------------------------

    def _epochs(self, samples: Samples, stage: Stage, ctx: StreamContext) -> None:
        """Offline training: epochs in random order."""
        settings, size = self.settings, self.settings.batch_size
        ctx.phase(f"epochs on {len(samples)} questions", settings.epochs * -(-len(samples) // size))
        self.network.train()
        while self.epoch < settings.epochs:
            order = ctx.rng("order", stage.index, self.epoch).permutation(len(samples))
            while self.position < len(samples):
                rows = order[self.position : self.position + size]
                loss = self._step(samples.take(rows, READ))
                self.position += size
                ctx.step(loss=loss)
            self.epoch, self.position = self.epoch + 1, 0
            if settings.test_interval and self.epoch % settings.test_interval == 0 and self.epoch < settings.epochs:
                ctx.evaluate(f"epoch {self.epoch}")
                self.network.train()

    def _stream(self, stage: Stage, ctx: StreamContext) -> None:
        """One pass, one question at a time, each with replayed ones."""
        settings, samples = self.settings, stage.train
        ctx.phase("stream", len(samples) - self.position)
        self.network.train()
        while self.position < len(samples):
            row = np.array([self.position])
            batch = samples.take(row, READ)
            if self.memory is not None:
                if settings.insert_first:
                    self._remember(samples, row)
                if settings.replay_samples and len(self.memory):
                    batch = merge(batch, self.memory.sample(settings.replay_samples))
            loss = self._step(batch)
            if self.memory is not None and not settings.insert_first:
                self._remember(samples, row)
            self.position += 1
            ctx.step(loss=loss)

    def _step(self, batch: Mapping[str, Any]) -> Tensor:
        question, image, length, answer = self._tensors(batch)
        loss = functional.cross_entropy(self.network(question, image, length), answer)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.settings.average:
            with torch.no_grad():
                decay = self.settings.average_decay
                for name, parameter in self.network.named_parameters():
                    if name in self.shadow:
                        self.shadow[name].mul_(decay).add_(parameter, alpha=1 - decay)
                    else:
                        self.shadow[name] = parameter.detach().clone()
        return loss.detach()

    def _tensors(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Questions [n, L] as long as the longest, images [n, R, D] decoded, lengths [n], answers [n]."""
        length = as_tensor(batch[LENGTH], torch.device("cpu"))
        longest = int(length.max())
        question = as_tensor(np.ascontiguousarray(batch[QUESTION][:, :longest]), self.device)
        codes = as_tensor(batch[CODES], self.device)
        answer = as_tensor(batch[ANSWER], self.device)
        answer = answer[:, 0] if answer.dim() == 2 else answer
        image = decode_regions(codes, self.centroids)
        if self.parts.stream.info.get("unit_regions"):
            image = image / (image.norm(dim=2, keepdim=True) + 1e-8)
        return question, image, length, answer

    def _remember(self, samples: Samples, rows: np.ndarray) -> None:
        assert self.memory is not None
        batch = samples.take(rows, READ)
        answers = batch[ANSWER]
        self.memory.add(batch, np.ascontiguousarray(answers[:, 0] if answers.ndim == 2 else answers))

    def _restart(self) -> None:
        frozen = getattr(self.network, "embedding", None) if self.settings.freeze_words else None
        if frozen is not None:
            frozen.requires_grad_(False)
        learnt = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adamax(learnt, lr=self.settings.lr)
        self.shadow.clear()

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(tensors[name])


def merge(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """The new question first, then the replayed ones."""
    joined = {}
    for name in READ:
        other = old[name].cpu().numpy() if isinstance(old[name], Tensor) else old[name]
        joined[name] = np.concatenate([new[name], other.astype(new[name].dtype, copy=False)])
    return joined


def merge_batch(current: int, replayed: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Rows of a training batch, longest question first (stable), as the authors' loader collates them."""
    rows = np.concatenate([np.array([current], np.int64), np.asarray(replayed, np.int64)])
    return rows[np.argsort(-lengths[rows], kind="stable")]
