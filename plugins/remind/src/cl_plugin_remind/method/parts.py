"""A network as REMIND sees it: a whole to train offline, a frozen lower part, a plastic upper part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from attrs import define
from torch import Tensor, nn

from cl_kernel import Field, Memory, Samples, Stage, Stream, StreamContext
from cl_kernel.torch.loaders import RESIDENT_BYTES, Batches, as_tensor, input_name, input_shape, label_name
from cl_kernel.torch.shared_features import Sharing
from cl_kernel.torch.split import Split, as_split
from cl_plugin_remind.method.codec import PqCodec
from cl_plugin_remind.method.step import FEATURES, ITEM, LABEL
from cl_plugin_remind.network.resnet import Divided


def set_tf32(on: bool) -> None:
    """TensorFloat-32 in float32 convolutions and products on CUDA, for this process."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(products, "fp32_precision"):  # since torch 2.9; the older switches may not be mixed with it
        convolutions.conv.fp32_precision = products.fp32_precision = "tf32" if on else "ieee"
    else:
        convolutions.allow_tf32 = products.allow_tf32 = on


@define(eq=False, repr=False)
class Brain:
    """Whole, lower and upper part share their tensors."""

    whole: nn.Module
    lower: nn.Module
    upper: nn.Module
    device: torch.device
    keeps_lower: bool = False  # it came cut, with a lower part that is to stay as it is
    sharing: Sharing | None = None  # features of a pretrained lower part, shared by runs

    @classmethod
    def of(cls, model: nn.Module, device: torch.device) -> Brain:
        """From this plugin's network, or from any other torch network, split or not."""
        model = model.to(device, memory_format=torch.channels_last)
        if isinstance(model, Divided):
            return cls(model.whole, model.parts.lower, model.upper, device)
        split: Split = as_split(model)
        whole = nn.Sequential(split.lower, split.upper)
        return cls(whole, split.lower, split.upper, device, keeps_lower=split.is_cut)

    def features(self, inputs: Tensor) -> Tensor:
        """What crosses the cut, computed up to there and no further."""
        with torch.inference_mode():
            return self.lower(inputs)

    def open(self, *, whole: bool) -> None:
        """All of it learns, or only the upper part beneath which everything, norms included, stays as it is."""
        self.whole.requires_grad_(True).train()
        if whole:
            self.sharing = None
        else:
            self.lower.requires_grad_(False).eval()

    def freeze(self, *, upper_trains: bool) -> None:
        """The lower part stays as it is; the upper one is in training or evaluation mode."""
        self.lower.requires_grad_(False).eval()
        self.upper.requires_grad_(True).train(upper_trains)

    def memory_fields(self, spec: Mapping[str, Field]) -> dict[str, Field]:
        """Fields of a remembered example: features at the cut, class, item number."""
        source = spec[input_name(spec)]
        blank = torch.zeros((1, *input_shape(source)), device=self.device)
        training = self.lower.training
        shape = tuple(self.lower.eval()(blank).shape[1:])
        self.lower.train(training)
        return {
            FEATURES: Field(shape=shape, dtype="float32", kind="map" if len(shape) == 3 else "vector"),
            LABEL: Field(shape=(), dtype="int64", kind="class", n=spec[label_name(spec)].n),
            ITEM: Field(shape=(), dtype="int64", kind="group"),
        }


def through(memory: Memory | None, features: Tensor) -> tuple[Any, Tensor]:
    """Features as the memory would keep them, and as it would give them back.

    :param features: float32 [n, ...] on the device.
    :return: what to hand to the memory later (codes where the codec takes codes), and float32 [n, ...].
    """
    if memory is None:
        return features, features.clone()
    codec = memory.codec
    if isinstance(codec, PqCodec):
        quantiser = codec.quantisers[FEATURES]
        codes = quantiser.encode_maps(features) if features.dim() == 4 else quantiser.encode(features)
        return codes, quantiser.decode_maps(codes) if codes.dim() == 4 else quantiser.decode(codes)
    kept = as_codec_input(memory, features)
    filler = np.zeros(len(features), np.int64)
    decoded = codec.decode(codec.encode({FEATURES: kept, LABEL: filler, ITEM: filler}))
    return kept, as_tensor(decoded[FEATURES], features.device).float().clone()


def as_codec_input(memory: Memory, features: Tensor) -> Any:
    """Features in the framework of the memory's codec."""
    return features if getattr(memory.codec, "framework", "numpy") == "torch" else features.cpu().numpy()


def stage_batches(brain: Brain, stage: Stage, ctx: StreamContext) -> Batches:
    """A stage's samples as features at the cut; unreadable ones follow ``--on-bad-sample``."""
    return feature_batches(brain, stage.train, ctx.resources.n_workers, on_bad=ctx.bad_sample)


def feature_batches(
    brain: Brain,
    samples: Samples,
    n_workers: int,
    *,
    on_bad: Callable[[str, Exception], None] | None = None,
    limit: int = RESIDENT_BYTES,
) -> Batches:
    """Samples as features at the cut: those that runs share, else computed here."""
    features = None if brain.sharing is None else brain.sharing.of(brain.lower, samples, brain.device)
    return Batches(
        samples if features is None else features,
        brain.device,
        transform=brain.features if features is None else None,
        on_bad=on_bad,
        n_workers=max(1, n_workers),
        limit=limit,
    )


def item_numbers(stream: Stream, stage: Stage, rows: np.ndarray) -> np.ndarray:
    """Numbers of a stage's samples over the whole stream: the data set's own, or counted through the stages."""
    if "items" in stage.info:
        return np.asarray(stage.info["items"], np.int64)[rows]
    return rows.astype(np.int64) + sum(len(earlier.train) for earlier in stream.stages[: stage.index])
