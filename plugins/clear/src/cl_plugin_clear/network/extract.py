"""Feature extractors for labelled pictures: a backbone without head, or a CLIP image tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cl_kernel import BadInput, BadSetting, MissingAsset, open_picture
from cl_kernel.torch import device as devices
from cl_plugin_clear.curation.features import open_model, weights_name
from cl_plugin_clear.curation.images import FORMATS
from cl_plugin_clear.data.release import centre_crop, read_picture
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
        return clip.images([open_picture(path) for path in paths])

    return extract


ENCODERS = {"torchvision": "torchvision", "timm": "timm", "hf": "transformers", "module": "module"}
"""Who makes a network of that prefix, in the kernel's library."""


def encoder_extractor(name: str, weights: str, size: int, device: str = "auto") -> Extractor:
    """What comes out below the classifier of any network by name, see :class:`Encoder`."""
    encoder = Encoder(name, weights, size, device)
    return lambda paths: encoder.features(np.stack([read_picture(path, size) for path in paths]))


class Encoder:
    """A network by name as an embedder of pictures, cut below its classifier, with the preprocessing its weights want.

    It reads no text: what stands for a prompt is a picture, or a folder of pictures, whose mean is looked for.

    :param name: ``clk:efficientnet-lite0``, ``torchvision:NAME``, ``timm:NAME``, ``hf:DIR``, ``module:FILE:NAME``.
    :param weights: ``default``, ``hub``, ``none`` or a file.
    :param size: edge of the centre crop that it is given, in pixels.
    :raises BadSetting: for a name of no known kind.
    """

    def __init__(self, name: str, weights: str = "", size: int = 224, device: str = "auto") -> None:
        self.name, self.weights = name if size == 224 else f"{name}@{size}", weights_name(weights or "default")
        self._size, self._device = size, devices.resolve(device)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # weights "none" are the same ones whenever it is opened
            self._lower = _cut_network(name, weights, size, device).to(self._device).eval()
        self.dim = int(self.features(np.zeros((1, size, size, 3), np.uint8)).shape[1])
        self.preprocess = f"shorter side to {size}, centre crop, then the network's own"

    def features(self, crops: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] -> float32 [N, dim]."""
        images = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2).float().div(255)
        with torch.inference_mode():
            return self._lower(images).flatten(1).cpu().numpy()  # type: ignore[no-any-return]

    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """float32 [N, dim]."""
        return self.features(np.stack([centre_crop(picture.convert("RGB"), self._size) for picture in pictures]))

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """float32 [P, dim]: the mean direction of each prompt's example pictures.

        :raises BadInput: for a prompt that is neither a picture nor a folder with pictures.
        """
        return np.stack([self._example(Path(prompt)) for prompt in prompts])

    def _example(self, place: Path) -> np.ndarray:
        paths = sorted(p for p in place.iterdir() if p.suffix[1:].lower() in FORMATS) if place.is_dir() else [place]
        if not paths or not paths[0].is_file():
            raise BadInput(
                f"{self.name} reads no text, and {str(place)!r} is neither a picture nor a folder of pictures",
                where="prompt",
                fix="give example pictures as the prompt, or a CLIP model",
            )
        rows = self.features(np.stack([read_picture(path, self._size) for path in paths]))
        return np.mean([row / np.linalg.norm(row) for row in rows], axis=0)  # type: ignore[no-any-return]


def _cut_network(name: str, weights: str, size: int, device: str) -> torch.nn.Module:
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
    lower: torch.nn.Module = make(settings, fields, 2, Resources(device=device)).lower
    return lower
