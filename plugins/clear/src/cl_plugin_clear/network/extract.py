"""Feature extractors for labelled pictures: a backbone without head, or a CLIP image tower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cl_kernel import BadSetting, MissingAsset
from cl_kernel.torch import device as devices
from cl_plugin_clear.curation.features import open_model
from cl_plugin_clear.data.release import read_picture
from cl_plugin_clear.network.augment import normalised
from cl_plugin_clear.network.backbones import backbone
from cl_plugin_clear.weights.checkpoints import load_backbone

Extractor = Callable[[list[Path]], np.ndarray]


def backbone_extractor(arch: str, weights: str, size: int, device: str = "auto") -> tuple[Extractor, dict[str, Any]]:
    """Extractor and the backbone's weights.

    :param weights: a file; ``torchvision`` for supervised ImageNet weights; empty for random ones (the paper's
        ``raw_feature``), drawn from seed 0.
    :raises MissingAsset: when torchvision cannot fetch its weights.
    """
    where = devices.resolve(device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, _ = backbone(arch)
    if weights == "torchvision":
        import torchvision

        try:
            full = getattr(torchvision.models, arch)(weights="IMAGENET1K_V1").state_dict()
        except (OSError, RuntimeError) as error:
            raise MissingAsset(
                f"torchvision cannot fetch its weights: {error}", where="--weights", fix="--weights FILE"
            ) from error
        network.load_state_dict({k: v for k, v in full.items() if not k.startswith("fc.")})
    elif weights:
        load_backbone(network, weights)
    network = network.to(where).eval()

    def extract(paths: list[Path]) -> np.ndarray:
        batch = np.stack([normalised(Image.fromarray(read_picture(path, size))) for path in paths])
        with torch.inference_mode():
            return network(torch.from_numpy(batch).to(where)).cpu().numpy()  # type: ignore[no-any-return]

    return extract, {name: value.cpu() for name, value in network.state_dict().items()}


def clip_extractor(model: str, weights: str = "openai", device: str = "auto") -> Extractor:
    """Raw features of a CLIP image tower."""
    clip = open_model(model, weights=weights, device=device)

    def extract(paths: list[Path]) -> np.ndarray:
        pictures = []
        for path in paths:
            with Image.open(path) as image:
                pictures.append(image.convert("RGB"))
        return clip.images(pictures)

    return extract


ENCODERS = {"torchvision": "torchvision", "timm": "timm", "hf": "transformers", "module": "module"}
"""Who makes a network of that prefix, in the kernel's library."""


def encoder_extractor(name: str, weights: str, size: int, device: str = "auto") -> Extractor:
    """What comes out below the classifier of any network by name, with the preprocessing that its weights want.

    :param name: ``clk:efficientnet-lite0``, ``torchvision:NAME``, ``timm:NAME``, ``hf:DIR``, ``module:FILE:NAME``.
    :param weights: ``default``, ``hub``, ``none`` or a file.
    :param size: edge of the centre crop that it is given, in pixels.
    :raises BadSetting: for a name of no known kind.
    """
    from cl_kernel import Field, Resources
    from cl_kernel.library.backbones import build
    from cl_kernel.library.backbones.settings import Backbone

    kind, _, network_name = name.partition(":")
    if name == "clk:efficientnet-lite0":
        make, network_name = build.build_efficientnet_lite0, ""
    elif kind in ENCODERS and network_name:
        make = getattr(build, f"build_{ENCODERS[kind]}")
    else:
        fix = "clk:efficientnet-lite0, torchvision:NAME, timm:NAME, hf:DIR or module:FILE:CALLABLE"
        raise BadSetting(f"no encoder {name!r}", where="--encoder", fix=fix)
    fields = {"image": Field(shape=(size, size, 3), dtype="uint8", kind="image")}
    settings = Backbone(name=network_name, weights=weights or "default")
    split = make(settings, fields, 2, Resources(device=device))
    where = devices.resolve(device)
    lower = split.lower.to(where).eval()

    def extract(paths: list[Path]) -> np.ndarray:
        batch = np.stack([read_picture(path, size) for path in paths])
        images = torch.from_numpy(batch).to(where).permute(0, 3, 1, 2).float().div(255)
        with torch.inference_mode():
            return lower(images).flatten(1).cpu().numpy()  # type: ignore[no-any-return]

    return extract
