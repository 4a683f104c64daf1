"""Pretraining of head and codebook together on a base set."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from attrs import frozen
from torch import Tensor, nn

from cl_kernel import Resources, Samples
from cl_kernel.torch import state
from cl_kernel.torch.split import Split
from cl_plugin_crumb import settings as choices
from cl_plugin_crumb.data.base import base_samples
from cl_plugin_crumb.method.codec import BlocksCodec
from cl_plugin_crumb.method.losses import Weights
from cl_plugin_crumb.method.steps import step_new
from cl_plugin_crumb.network import networks
from cl_plugin_crumb.network.codebook import Codebook

FEATURE_BYTES = 1 << 30
"""Maps of a base set that need more are computed batch by batch, in every pass."""


@frozen(kw_only=True)
class Pretraining:
    """All that the training depends on beside the network, the codebook and the images."""

    lr: float
    batch: int
    epochs: int
    w_out: float
    w_direct: float
    momentum: float
    weight_decay: float

    @classmethod
    def of(cls, options: choices.Crumb) -> Pretraining:
        """The part of a learner's settings that the pretraining reads."""
        own = {name: getattr(options, f"pretrain_{name}") for name in ("lr", "batch", "epochs", "w_out", "w_direct")}
        return cls(**own, momentum=options.momentum, weight_decay=options.weight_decay)


def pretrain(
    network: Split, codec: BlocksCodec | None, options: choices.Crumb, side: int, resources: Resources
) -> None:
    """Train head and codebook together on the base set, then take what ``options.start`` says.

    Done once for equal starting weights, images and settings, then from the cache. The last layer stays new.

    :param side: size of the images that the network takes; those of a folder are read at it.
    """
    if options.start == "none" or not network.is_cut:
        return
    codebook = None if codec is None else codec.codebook
    asked = Pretraining.of(options)
    base = base_samples(options.base, options.base_skip, side, n_workers=resources.n_workers)
    made = resources.artefact(
        "crumb-pretrained",
        revision=4,
        settings=asked,
        network=state.pack(network.lower),
        head=_all_but_last(network.upper),
        layers=str(network.upper),
        base=base,
        codebook=None if codebook is None else state.pack(codebook),
        starts=codec.options if codec is not None and codec.codebook.waits else None,
    ).make(lambda folder: _train_head(network, codebook, asked, base, folder))
    if options.start in ("pretrained", "weights"):
        found = state.read_weights(made / "net.pth")
        network.upper.load_state_dict(found, strict=False)
    if codebook is not None and options.start in ("pretrained", "codebook"):
        state.assign(codebook, state.read_weights(made / "mem.pth"), where=str(made))
        codebook.settle()


def _all_but_last(head: nn.Module) -> dict[str, np.ndarray]:
    last = networks.last_layer(head)
    return {name: tensor.cpu().numpy() for name, tensor in head.state_dict().items() if not name.startswith(f"{last}.")}


def _maps(network: Split, base: Samples, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Rows of the base set -> their maps, computed once where they fit."""

    def compute(rows: np.ndarray) -> Tensor:
        images = torch.from_numpy(base.take(rows, ["image"])["image"]).permute(0, 3, 1, 2)
        return network.features(images.to(device).float().div(255))

    if len(base) * compute(np.arange(1)).nbytes > FEATURE_BYTES:
        return lambda rows: compute(rows.cpu().numpy())
    whole = torch.cat([compute(part) for part in np.split(np.arange(len(base)), range(500, len(base), 500))])
    return lambda rows: whole[rows]


def _train_head(network: Split, codebook: Codebook | None, asked: Pretraining, base: Samples, folder: Path) -> None:
    device = next(network.parameters()).device
    head, book = copy.deepcopy(network.upper), copy.deepcopy(codebook)
    weights = Weights(asked.w_out, asked.w_direct) if book is not None else Weights(0.0, 1.0)
    labels = base.take(np.arange(len(base)), ["class"])["class"]
    n_classes = int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks.renew_last(head, n_classes)
        parameters = [*head.parameters(), *(book.parameters() if book is not None else ())]
        optimizer = torch.optim.SGD(parameters, asked.lr, asked.momentum, weight_decay=asked.weight_decay)
        maps, targets = _maps(network, base, device), torch.from_numpy(labels).to(device)
        head.train()
        for _ in range(asked.epochs):
            for rows in torch.randperm(len(labels)).to(device).split(asked.batch):
                step_new(head, book, optimizer, maps(rows), targets[rows], n_classes, weights)
    last = networks.last_layer(head)
    torch.save({k: v.cpu() for k, v in head.state_dict().items() if not k.startswith(f"{last}.")}, folder / "net.pth")
    if book is not None:
        torch.save({k: v.cpu() for k, v in book.state_dict().items()}, folder / "mem.pth")
