"""Pretraining of head and codebook together on a base set."""

from __future__ import annotations

import copy
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import nn

from cl_kernel import Resources, digest_tree, fingerprint
from cl_kernel.torch import state
from cl_kernel.torch.split import Split
from cl_plugin_crumb import settings as choices
from cl_plugin_crumb.data.base import base_images
from cl_plugin_crumb.method.losses import Weights
from cl_plugin_crumb.method.steps import step_new
from cl_plugin_crumb.network import networks
from cl_plugin_crumb.network.codebook import Codebook


def pretrain(network: Split, codebook: Codebook | None, options: choices.Crumb, resources: Resources) -> None:
    """Train head and codebook together on the base set, then take what ``options.start`` says.

    Done once for equal starting weights and settings, then from the cache. The last layer stays new.
    """
    if options.start == "none" or not network.is_cut:
        return
    toy_base = options.base in ("main", "small")
    pixels, labels = base_images(options.base, options.base_skip)
    inputs = {
        "what": "head and codebook",
        "version": 3,
        "network": digest_tree(state.pack(network.lower)),
        "head": digest_tree(_all_but_last(network.upper)),
        "layers": str(network.upper),
        "base": options.base if toy_base else fingerprint(pixels, labels),
        "codebook": None if codebook is None else digest_tree(state.pack(codebook)),
        **{k: v for k, v in attrs.asdict(options).items() if k.startswith("pretrain_")},
        "momentum": options.momentum,
        "weight_decay": options.weight_decay,
    }
    made = resources.cache.make(
        "crumb-pretrained", inputs, lambda folder: _train_head(network, codebook, options, pixels, labels, folder)
    )
    if options.start in ("pretrained", "weights"):
        found = state.read_weights(made / "net.pth")
        network.upper.load_state_dict(found, strict=False)
    if codebook is not None and options.start in ("pretrained", "codebook"):
        state.assign(codebook, state.read_weights(made / "mem.pth"), where=str(made))
        codebook.settle()


def _all_but_last(head: nn.Module) -> dict[str, np.ndarray]:
    last = networks.last_layer(head)
    return {name: tensor.cpu().numpy() for name, tensor in head.state_dict().items() if not name.startswith(f"{last}.")}


def _train_head(
    network: Split,
    codebook: Codebook | None,
    options: choices.Crumb,
    pixels: np.ndarray,
    labels: np.ndarray,
    folder: Path,
) -> None:
    device = next(network.parameters()).device
    head, book = copy.deepcopy(network.upper), copy.deepcopy(codebook)
    weights = Weights(options.pretrain_w_out, options.pretrain_w_direct) if book is not None else Weights(0.0, 1.0)
    n_classes = int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks.renew_last(head, n_classes)
        parameters = [*head.parameters(), *(book.parameters() if book is not None else ())]
        optimizer = torch.optim.SGD(
            parameters, options.pretrain_lr, options.momentum, weight_decay=options.weight_decay
        )
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        features = torch.cat([network.features(part.to(device).float().div(255)) for part in images.split(500)])
        targets = torch.from_numpy(labels).to(device)
        head.train()
        for _ in range(options.pretrain_epochs):
            for rows in torch.randperm(len(labels)).to(device).split(options.pretrain_batch):
                step_new(head, book, optimizer, features[rows], targets[rows], n_classes, weights)
    last = networks.last_layer(head)
    torch.save({k: v.cpu() for k, v in head.state_dict().items() if not k.startswith(f"{last}.")}, folder / "net.pth")
    if book is not None:
        torch.save({k: v.cpu() for k, v in book.state_dict().items()}, folder / "mem.pth")
