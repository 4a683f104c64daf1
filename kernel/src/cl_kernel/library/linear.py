"""Softmax regression in numpy: naive without a memory, experience replay with one.

Shapes: n a batch, D inputs, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from attrs import define, field

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.interfaces import Samples
from cl_kernel.contract.stream import Stage
from cl_kernel.library.settings import Linear
from cl_kernel.memory import Memory
from cl_kernel.running.growing import grown
from cl_kernel.running.loop import StreamContext
from cl_kernel.running.resources import Setup


@define
class LinearLearner:
    """One linear layer trained by plain SGD; new samples enter the memory when they are first seen.

    :param reads: the input field, flattened to D numbers.
    """

    settings: Linear
    reads: str
    weights_DK: np.ndarray
    bias_K: np.ndarray
    memory: Memory | None
    rng: np.random.Generator
    done: dict[str, Any] = field(factory=dict)  # position: stage, epoch, step within it, the epoch's order

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Pass over the stage ``n_epochs`` times, from wherever :meth:`load` left it."""
        settings = self.settings
        if self.done.get("stage") != stage.index:
            self.done = {"stage": stage.index, "epoch": 0, "step": 0, "order": None}
        n_steps = -(-len(stage.train) // settings.batch_size)
        ctx.phase("train", (settings.n_epochs - self.done["epoch"]) * n_steps - self.done["step"])
        while self.done["epoch"] < settings.n_epochs:
            if self.done["order"] is None:
                self.done["order"] = self.rng.permutation(len(stage.train))
            while self.done["step"] < n_steps:
                at = self.done["step"] * settings.batch_size
                new = stage.train.take(self.done["order"][at : at + settings.batch_size], [self.reads, "class"])
                batch = new
                if self.memory is not None and len(self.memory):
                    old = self.memory.sample(settings.n_replayed)
                    batch = {name: np.concatenate([new[name], old[name]]) for name in new}
                loss = self._descend(self._inputs(batch[self.reads]), batch["class"])
                if self.memory is not None and self.done["epoch"] == 0:
                    self.memory.add(new, new["class"])
                self.done["step"] += 1
                ctx.step(loss=loss)
            self.done |= {"epoch": self.done["epoch"] + 1, "step": 0, "order": None}

    def predict(self, samples: Samples) -> Iterator[dict[str, np.ndarray]]:
        """Log-odds float64 [n, K], 512 samples at a time."""
        for at in range(0, len(samples), 512):
            rows = np.arange(at, min(at + 512, len(samples)))
            inputs = self._inputs(samples.take(rows, [self.reads])[self.reads])
            yield {"scores": inputs @ self.weights_DK + self.bias_K}

    def state(self) -> dict[str, Any]:
        """Weights, memory, generator and position."""
        return {
            "weights": self.weights_DK.copy(),
            "bias": self.bias_K.copy(),
            "done": dict(self.done),
            "rng": self.rng.bit_generator.state,
            "memory": self.memory.state() if self.memory else None,
        }

    def grow(self, state: dict[str, Any]) -> Any:
        """The state of a learner of fewer classes, for :meth:`load`; columns of new classes begin at zero."""
        return grown(state, self.state())

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.weights_DK, self.bias_K = state["weights"].copy(), state["bias"].copy()
        self.done, self.rng.bit_generator.state = dict(state["done"]), state["rng"]
        if self.memory is not None:
            self.memory.load(state["memory"])

    def _inputs(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(len(values), -1).astype(np.float64)

    def _descend(self, inputs_nD: np.ndarray, target: np.ndarray) -> float:
        logits_nK = inputs_nD @ self.weights_DK + self.bias_K
        logits_nK -= logits_nK.max(1, keepdims=True)
        p_nK = np.exp(logits_nK)
        p_nK /= p_nK.sum(1, keepdims=True)
        row = np.arange(len(target))
        loss = -float(np.log(np.maximum(p_nK[row, target], 1e-300)).mean())
        p_nK[row, target] -= 1.0
        step = self.settings.lr / len(target)
        self.weights_DK -= step * (inputs_nD.T @ p_nK)
        self.bias_K -= step * p_nK.sum(0)
        return loss


def build(settings: Linear, setup: Setup) -> LinearLearner:
    """A learner for the stream's vectors or images.

    :raises Mismatch: for inputs of varying size, or a stream without class names.
    """
    spec, n_classes = setup.stream.spec, setup.stream.n_classes
    reads = setup.stream.task.split("->")[0].strip()
    if reads not in spec or not spec[reads].nbytes or not n_classes:
        raise Mismatch(
            f"learner linear reads one {reads} of fixed size and predicts named classes; data set "
            f"{setup.stream.name!r} has {sorted(spec)} and {n_classes} classes",
            where="--learner linear",
        )
    n_inputs = int(np.prod([axis or 0 for axis in spec[reads].shape]))
    memory = setup.memory({name: spec[name] for name in (reads, "class")}) if setup.memory else None
    return LinearLearner(
        settings, reads, np.zeros((n_inputs, n_classes)), np.zeros(n_classes), memory, setup.resources.rng("linear")
    )
