"""What CRUMB keeps of an example and how it comes back: block numbers, images, maps, weighted maps, or moments.

Shapes: B batch, C h w the map at the cut, R classes to replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor
from torch.nn import functional as F

from cl_kernel import Field, Memory, Samples
from cl_kernel.methods.seen_classes import SeenClasses
from cl_kernel.torch.loaders import as_tensor, input_name, label_name, to_input
from cl_kernel.torch.split import FEATURES, Split
from cl_plugin_crumb.method.policies import Moments
from cl_plugin_crumb.settings import Crumb


def memory_fields(options: Crumb, network: Split, spec: Mapping[str, Field], device: torch.device) -> dict[str, Field]:
    """Fields of a remembered example: the image itself, or the map at the cut."""
    source, label = input_name(spec), label_name(spec)
    if options.storage == "image":
        return {source: spec[source], label: spec[label]}
    blank = torch.zeros((1, *(axis or 1 for axis in spec[source].shape)), dtype=getattr(torch, spec[source].dtype))
    shape = tuple(network.features(to_input(blank.to(device), spec[source], device)).shape[1:])
    return {FEATURES: Field(shape=shape, dtype="float32", kind="map"), label: spec[label]}


@define(eq=False)
class Storage:
    """The memory as the loop uses it: :meth:`keep` examples of a batch, :meth:`draw` a replay batch.

    :param moments: of each class' maps, for ``storage="merec"``, which has no memory.
    """

    options: Crumb
    network: Split
    memory: Memory | None
    spec: Mapping[str, Field]
    device: torch.device
    seen: SeenClasses
    rng: np.random.Generator
    moments: dict[int, Moments] = field(factory=dict)

    def keep(self, samples: Samples, rows: np.ndarray, labels: np.ndarray, features: Tensor) -> None:
        """Offer a batch in evaluation mode; ``features`` are its maps [B, C, h, w]."""
        spec, options = samples.spec, self.options
        label = label_name(spec)
        if options.storage == "merec":
            for c in np.unique(labels).tolist():
                self.moments.setdefault(c, Moments()).add(features[torch.from_numpy(labels == c)].cpu().numpy())
            return
        if options.storage == "image":
            self.memory.add(samples.take(rows, [input_name(spec), label]), labels)
            return
        if options.storage == "enhanced_raw_feature":
            features = self._enhanced(features, torch.from_numpy(labels).to(self.device))
        kept = features if hasattr(self.memory.codec, "codebook") else features.cpu().numpy()
        self.memory.add({FEATURES: kept, label: labels}, labels)

    def _enhanced(self, features: Tensor, labels: Tensor) -> Tensor:
        """Maps weighted by how much the loss depends on each of their values."""
        with torch.enable_grad():
            watched = features.detach().requires_grad_()
            scores = self.network.upper(watched)[:, : len(self.seen)]
            loss = F.cross_entropy(self.seen.scores(scores), self.seen.columns_of(labels))
            (gradient,) = torch.autograd.grad(loss, watched)
        saliency = gradient.abs()
        return features * saliency / saliency.mean().clamp_min(1e-20)

    def draw(self, present: set[int], batch_size: int) -> tuple[Tensor, Tensor] | None:
        """A class-balanced replay batch, maps [n |R|, C, h, w] and labels; None while there is nothing to replay.

        :param present: classes of the current batch, which are not replayed.
        """
        if self.options.storage == "merec":
            classes = [c for c in self.seen.order if c not in present and c in self.moments]
            if not classes:
                return None
            picks = np.tile(classes, -(-batch_size // len(classes)))
            maps = np.stack([self.moments[c].draw(self.rng.standard_normal(self.moments[c].mean.shape)) for c in picks])
            return torch.from_numpy(maps).float().to(self.device), torch.from_numpy(picks).to(self.device)
        policy = self.memory.policy
        counts = policy.counts()
        classes = [c for c in self.seen.order if c not in present and counts.get(c)]
        if not classes:
            return None
        if hasattr(policy, "balanced_draw"):
            slots, _ = policy.balanced_draw(classes, batch_size, self.rng)
        else:
            rounds = -(-batch_size // len(classes))
            slots = np.concatenate([np.resize(self.memory.draw(rounds, np.array([c])), rounds) for c in classes])
        stored = self.memory.take(slots)
        spec = self.spec
        labels = as_tensor(stored[label_name(spec)], self.device).long()
        if self.options.storage == "image":
            source = input_name(spec)
            return self.network.features(to_input(stored[source], spec[source], self.device)), labels
        return as_tensor(stored[FEATURES], self.device).float(), labels

    def state(self) -> dict[str, Any]:
        """Memory and moments."""
        return {
            "memory": None if self.memory is None else self.memory.state(),
            "moments": {str(c): m.state() for c, m in self.moments.items()},
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        if self.memory is not None:
            self.memory.load(tree["memory"])
        self.moments = {}
        for c, content in tree["moments"].items():
            self.moments[int(c)] = Moments()
            self.moments[int(c)].load(content)
