"""Networks in two parts, a lower one that may be frozen and an upper one that learns; how learners get and read them.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define
from torch import Tensor, nn

from cl_kernel.contract.errors import BadSetting, Mismatch
from cl_kernel.contract.interfaces import Samples
from cl_kernel.contract.stream import Field
from cl_kernel.data.samples import Subset
from cl_kernel.torch import evaluate, state
from cl_kernel.torch.augment import View, make_view
from cl_kernel.torch.device import resolve
from cl_kernel.torch.loaders import BadSample, Batches, input_name, input_shape, label_name, to_input
from cl_kernel.torch.shared_features import FEATURES as FEATURES  # the name under which learners know it
from cl_kernel.torch.shared_features import Sharing

if TYPE_CHECKING:
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


NOT_SHARED = (
    "features of the frozen part are computed in this run alone and again each time: stream.augment makes another "
    "picture of each"
)


class Split(nn.Module):
    """``upper(lower(x))``; the lower part stays as it is: no gradients, always evaluation mode.

    :param lower: None for a network that learns as a whole.
    :param pretrained: the lower part's tensors come from elsewhere, not from the run's seed, so that its features are
        worth keeping for other runs.
    """

    def __init__(self, lower: nn.Module | None, upper: nn.Module, *, pretrained: bool = False) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.sharing: Sharing | None = None
        self.view: View | None = None  # of training pictures
        self.lower = lower.eval().requires_grad_(False) if lower is not None else nn.Identity()
        self.upper = upper
        self.is_cut = lower is not None

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores [B, K]."""
        scores: Tensor = self.upper(self.features(inputs) if self.is_cut else inputs)
        return scores

    def features(self, inputs: Tensor) -> Tensor:
        """What crosses the cut; without gradients."""
        with torch.no_grad():
            features: Tensor = self.lower(inputs)
        return features

    def train(self, mode: bool = True) -> Split:
        """Only the upper part has a training mode."""
        self.training = mode
        self.upper.train(mode)
        return self


def as_split(network: nn.Module) -> Split:
    """Any network as a :class:`Split` with nothing frozen, unless it is one."""
    return network if isinstance(network, Split) else Split(None, network)


def cut(layers: Sequence[tuple[str, nn.Module]], at: str) -> Split:
    """Split a chain of named layers.

    :param at: name of the first layer that learns; ``""`` leaves nothing frozen.
    :raises BadSetting: naming the layers when there is none of that name.
    """
    names = [name for name, _ in layers]
    if not at:
        return Split(None, nn.Sequential(OrderedDict(layers)))
    if at not in names:
        raise BadSetting(f"no layer {at!r} to cut at; there are {', '.join(names)}", where="model.cut")
    where = names.index(at)
    if where == 0:
        return Split(None, nn.Sequential(OrderedDict(layers)))
    return Split(nn.Sequential(OrderedDict(layers[:where])), nn.Sequential(OrderedDict(layers[where:])))


def frozen_part(network: Split) -> Callable[[Tensor], Tensor] | None:
    """The frozen part of a network, or None."""
    return network.features if network.is_cut else None


def build_network(setup: Setup) -> tuple[Split, torch.device]:
    """The network of a run on its device, its weights drawn from the run's seed.

    :raises Mismatch: when no model was chosen.
    """
    device = resolve(setup.resources.device)
    state.seed_torch(setup.resources.rng("torch"))
    network = setup.model(setup.stream.spec, setup.stream.n_classes) if setup.model is not None else None
    if network is None:
        raise Mismatch("this learner needs a network", where="--model", fix="--model mlp")
    split = as_split(network).to(device)
    if setup.resources.augment:
        split.view = _view(setup)
        if split.is_cut:
            setup.resources.say(NOT_SHARED)
    if split.is_cut and split.pretrained:
        split.sharing = Sharing(setup.resources)
    return split, device


def _view(setup: Setup) -> View:
    """What makes views of training pictures; refused for samples that are none."""
    spec = setup.stream.spec[input_name(setup.stream.spec)]
    if spec.kind != "image":
        raise Mismatch(f"the samples are {spec.kind}s, views are of pictures", where="stream.augment")
    return make_view(setup.resources.augment, input_shape(spec))


def memory_fields(network: Split, spec: Mapping[str, Field], device: torch.device) -> dict[str, Field]:
    """Fields of a remembered example: the sample's own, or what crosses the cut."""
    source, label = input_name(spec), label_name(spec)
    if not network.is_cut:
        return {source: spec[source], label: spec[label]}
    blank = torch.zeros((1, *_concrete(spec[source])), dtype=getattr(torch, spec[source].dtype), device=device)
    shape = tuple(network.features(to_input(blank, spec[source], device)).shape[1:])
    return {
        FEATURES: Field(shape=shape, dtype="float32", kind="map" if len(shape) == 3 else "vector"),
        label: spec[label],
    }


def _concrete(spec: Field) -> tuple[int, ...]:
    if None in spec.shape:
        raise Mismatch(f"images of varying size {spec.shape}", where="data set", fix="resize them in the data set")
    return tuple(int(axis) for axis in spec.shape if axis is not None)


def train_batches(network: Split, samples: Samples, device: torch.device, ctx: StreamContext) -> Batches:
    """Batches of a stage as the learning part reads them; unreadable samples follow ``--on-bad-sample``."""
    if network.view is not None:
        workers = max(1, ctx.resources.n_workers)
        frozen = frozen_part(network)
        return Batches(samples, device, frozen, network.view, on_bad=ctx.bad_sample, n_workers=workers)
    known = None if network.sharing is None else network.sharing.said_already
    batches = split_batches(network, samples, device, ctx.bad_sample, max(1, ctx.resources.n_workers))
    if network.sharing is not None and not known:
        ctx.note(network.sharing.say())
    return batches


def split_batches(
    network: Split, samples: Samples, device: torch.device, on_bad: BadSample | None = None, n_workers: int = 1
) -> Batches:
    """Batches as the learning part reads them: shared features of a pretrained frozen part, else computed here."""
    features = None if network.sharing is None else network.sharing.of(network.lower, samples, device)
    if features is not None:
        return Batches(features, device, on_bad=on_bad, n_workers=n_workers)
    return Batches(samples, device, transform=frozen_part(network), on_bad=on_bad, n_workers=n_workers)


@define(eq=False, repr=False)
class TestCache:
    """Tensors of the test samples, made once and used after every stage."""

    __test__ = False
    _samples: Samples | None = None
    _batches: Batches | None = None

    def predict(
        self, network: Split, samples: Samples, device: torch.device, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Predict, with the frozen part of the network computed once for samples that stay in memory."""
        if self._batches is None or self._samples is None or not _same(self._samples, samples):
            self._samples = samples
            self._batches = split_batches(network, samples, device)
        yield from evaluate.predict(network.upper, self._batches, batch_size)


def _same(a: Samples, b: Samples) -> bool:
    """Whether two selections are of the same rows; the kernel makes a new one for every evaluation."""
    if isinstance(a, Subset) and isinstance(b, Subset):
        return a.base is b.base and np.array_equal(a.rows, b.rows)
    return a is b
