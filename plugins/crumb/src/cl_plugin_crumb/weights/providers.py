"""Networks by name with the weights asked for: torchvision's, a file's, or those of a base set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cl_kernel import Asset, Field, Resources
from cl_kernel.torch import state
from cl_kernel.torch.device import resolve
from cl_kernel.torch.split import Split
from cl_plugin_crumb import settings as choices
from cl_plugin_crumb.data.base import base_images
from cl_plugin_crumb.network import networks
from cl_plugin_crumb.network.codebook import MATCHED
from cl_plugin_crumb.weights.files import fill


def build_squeezenet(
    options: choices.Squeezenet, fields: Mapping[str, Field], n_outputs: int, resources: Resources
) -> Split:
    """Model ``crumb:squeezenet``."""
    network = networks.squeezenet(
        n_outputs, cut=options.cut, frozen=options.frozen, size=options.size, rectified=options.rectified
    )
    if options.weights != "none":
        network.map_statistics = MATCHED.get(options.cut)
    return _with_weights(network, options.weights, choices.WEIGHTS["squeezenet"], resources)


def build_mobilenet(
    options: choices.Mobilenet, fields: Mapping[str, Field], n_outputs: int, resources: Resources
) -> Split:
    """Model ``crumb:mobilenet``."""
    network = networks.mobilenet(
        n_outputs, cut=options.cut, frozen=options.frozen, size=options.size, live_batchnorm=options.live_batchnorm
    )
    return _with_weights(network, options.weights, choices.WEIGHTS["mobilenet"], resources)


def build_tiny(options: choices.Tiny, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> Split:
    """Model ``crumb:tiny``, pretrained on the toy base set (once, then from the cache)."""
    network = networks.tiny(n_outputs, frozen=options.frozen, rectified=options.rectified)
    if options.weights == "none":
        return network
    tensors = base_weights(options, resources) if options.weights == "base" else state.read_weights(options.weights)
    fill(network, list(tensors.values()), where=f"model.weights={options.weights}")
    return network


def _with_weights(network: Split, weights: str, asset: Asset, resources: Resources) -> Split:
    if weights == "none":
        return network
    if weights == "imagenet":
        path = resources.locate(asset) / asset.files[0]
        tensors = {k: v for k, v in state.read_weights(path).items() if not k.startswith("classifier.")}
    else:
        path = Path(weights)
        tensors = state.read_weights(path)
    fill(network, list(tensors.values()), where=str(path))
    network.pretrained = True  # what crosses the cut is shared by all runs with these weights
    return network


def _augmented(images: Tensor) -> Tensor:
    """Photographs [n, 3, S, S] mirrored at random and moved by up to an eighth."""
    mirrored = torch.where((torch.rand(len(images)) < 0.5)[:, None, None, None], images.flip(3), images)
    reach = images.shape[3] // 8
    down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
    return mirrored.roll((down, right), (2, 3))


def base_weights(options: choices.Tiny, resources: Resources) -> dict[str, Tensor]:
    """Weights of the tiny network after training as a whole on the base set: Adam, one-cycle rate up to 3e-3."""
    toy_base = options.base == "main"
    pixels, labels = base_images(options.base, options.base_skip, n_images=options.base_images, seed=options.base_seed)

    def train(folder: Path) -> None:
        _train_base(pixels, labels, options, resources, folder, augment=not toy_base)

    base = resources.artefact(
        "crumb-base",
        revision=3,
        images=[pixels, labels],
        augment=not toy_base,
        epochs=options.base_epochs,
        seed=options.base_seed,
    )
    return state.read_weights(base.make(train) / "net.pth")


def _train_base(
    pixels: np.ndarray, labels: np.ndarray, options: choices.Tiny, resources: Resources, folder: Path, *, augment: bool
) -> None:
    device = resolve(resources.device)
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div(255).contiguous()
    targets = torch.from_numpy(labels).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.base_seed)
        network = networks.tiny(int(labels.max()) + 1, frozen=False).to(device, memory_format=torch.channels_last)
        size, n = 32, len(labels)
        steps = options.base_epochs * -(-n // size)
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        network.train()
        for _ in range(options.base_epochs):
            for rows in torch.randperm(n).split(size):
                batch = _augmented(images[rows]) if augment else images[rows]
                optimizer.zero_grad()
                F.cross_entropy(network(batch), targets[rows]).backward()
                optimizer.step()
                schedule.step()
    torch.save(network.state_dict(), folder / "net.pth")
