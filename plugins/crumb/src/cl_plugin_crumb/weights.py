"""Weights: torchvision's, the stand-in's base, pretraining of head and codebook, files of the original's form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel import Asset, BadInput, Field, MissingAsset, Resources, digest_tree, fingerprint
from cl_kernel.library.networks import Split
from cl_kernel.torch import state
from cl_kernel.torch.device import resolve
from cl_plugin_crumb import settings as choices
from cl_plugin_crumb import standin
from cl_plugin_crumb.data.stream import read_classes
from cl_plugin_crumb.losses import Weights
from cl_plugin_crumb.model import network as networks
from cl_plugin_crumb.model.codebook import Codebook
from cl_plugin_crumb.steps import step_new

SMALL_BASE = standin.BASE_HUES[:1]
"""Hues of the small base set: four classes instead of twenty."""


# ---- networks by name ------------------------------------------------------------------------


def build_squeezenet(
    options: choices.Squeezenet, fields: Mapping[str, Field], n_outputs: int, resources: Resources
) -> Split:
    """Model ``crumb:squeezenet``."""
    network = networks.squeezenet(
        n_outputs, cut=options.cut, frozen=options.frozen, size=options.size, rectified=options.rectified
    )
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
    """Model ``crumb:tiny``, pretrained on the embedded base set (once, then from the cache)."""
    network = networks.tiny(n_outputs, frozen=options.frozen, rectified=options.rectified)
    if options.weights == "none":
        return network
    tensors = base_weights(options, resources) if options.weights == "base" else state.read_weights(options.weights)
    _fill(network, list(tensors.values()), where=f"model.weights={options.weights}")
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
    _fill(network, list(tensors.values()), where=str(path))
    return network


def _fill(network: nn.Module, values: list[Tensor], *, where: str) -> None:
    """Put weights into a network in order of its layers, all but the last one, which is new.

    :raises BadInput: naming the first tensor that does not fit.
    """
    last = networks.last_layer(network)
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(f"{last}.")}
    for (name, tensor), value in zip(own.items(), values, strict=False):
        if tensor.shape != value.shape:
            raise BadInput(
                f"the weights do not fit the network: {name} is {list(tensor.shape)}, the file has {list(value.shape)}",
                where=where,
            )
    if len(values) < len(own):
        raise BadInput(f"the weights end early: {len(values)} tensors for {len(own)}", where=where)
    network.load_state_dict(dict(zip(own, values, strict=False)), strict=False)


# ---- base sets -------------------------------------------------------------------------------


def base_images(base: str, skip: int, *, n_images: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images to pretrain on: the embedded ones (``main`` or ``small``), or those of a folder ``CLASS/*``.

    :param skip: images left out at the start of each class of a folder. :param n_images: embedded images a class.
    :return: uint8 [N, 32, 32, 3] in random order, int64 [N].
    """
    if base in ("main", "small"):
        return standin.base(seed, n_images=n_images, hues=SMALL_BASE if base == "small" else standin.BASE_HUES)
    pixels, labels = read_classes(Path(base).expanduser(), standin.SIZE, skip)
    order = np.random.default_rng([seed, 2]).permutation(len(labels))
    return pixels[order], labels[order]


def _augmented(images: Tensor) -> Tensor:
    """Photographs [n, 3, S, S] mirrored at random and moved by up to an eighth."""
    mirrored = torch.where((torch.rand(len(images)) < 0.5)[:, None, None, None], images.flip(3), images)
    reach = images.shape[3] // 8
    down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
    return mirrored.roll((down, right), (2, 3))


def base_weights(options: choices.Tiny, resources: Resources) -> dict[str, Tensor]:
    """Weights of the tiny network after training as a whole on the base set: Adam, one-cycle rate up to 3e-3."""
    embedded = options.base == "main"
    pixels, labels = base_images(options.base, options.base_skip, n_images=options.base_images, seed=options.base_seed)
    inputs = {
        "what": "tiny base",
        "version": 2,
        **{f"base_{key}": getattr(options, f"base_{key}") for key in ("epochs", "images", "seed")},
        **({} if embedded else {"images": fingerprint(pixels, labels)}),
    }

    def train(folder: Path) -> None:
        _train_base(pixels, labels, options, resources, folder, augment=not embedded)

    return state.read_weights(resources.cache.make("crumb-base", inputs, train) / "net.pth")


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


# ---- pretraining of head and codebook --------------------------------------------------------


def pretrain(network: Split, codebook: Codebook | None, options: choices.Crumb, resources: Resources) -> None:
    """Train head and codebook together on the base set (spec 2.5), then take what ``options.start`` says.

    Done once for equal starting weights and settings, then from the cache. The last layer stays new.
    """
    if options.start == "none" or not network.is_cut:
        return
    embedded = options.base in ("main", "small")
    pixels, labels = base_images(options.base, options.base_skip)
    inputs = {
        "what": "head and codebook",
        "version": 3,
        "network": digest_tree(state.pack(network.lower)),
        "head": digest_tree(_all_but_last(network.upper)),
        "layers": str(network.upper),
        "base": options.base if embedded else fingerprint(pixels, labels),
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


# ---- files of the original's form ------------------------------------------------------------


def save_files(stem: Path, network: Split, codebook: Codebook | None) -> None:
    """``STEM_net.pth`` (prefixes ``FeatureExtractor.`` and ``block.``, and the codebook) and ``STEM_mem.pth``."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"FeatureExtractor.{k}": v.cpu() for k, v in network.lower.state_dict().items()}
    tensors |= {f"block.{k}": v.cpu() for k, v in network.upper.state_dict().items()}
    if codebook is not None:
        tensors["crumbr.memory"] = codebook.blocks.detach().cpu()
        torch.save(nn.Parameter(codebook.blocks.detach().cpu().clone()), f"{stem}_mem.pth")
    torch.save(tensors, f"{stem}_net.pth")


def load_files(stem: str, network: Split, codebook: Codebook | None, start: str, *, keep_last: bool = False) -> None:
    """Take weights, codebook or both from ``STEM_net.pth`` and ``STEM_mem.pth``, ours or the original's.

    The codebook inside the weight file is skipped, so "weights only" means it (Q2).

    :param keep_last: take the last layer too (continuing a run).
    :raises MissingAsset: when a file is absent. :raises BadInput: when it does not fit.
    """
    if start in ("pretrained", "weights"):
        path = Path(f"{stem}_net.pth")
        content = state.read_file(path)
        if not isinstance(content, Mapping):
            raise BadInput("no table of named tensors", where=str(path))
        tensors = {k: v for k, v in content.items() if k.startswith(("FeatureExtractor.", "block."))}
        if not tensors:
            raise BadInput("no FeatureExtractor.* and block.* weights in the file", where=str(path))
        lower = [v for k, v in tensors.items() if k.startswith("FeatureExtractor.")]
        upper = [v for k, v in tensors.items() if k.startswith("block.")]
        own = network.lower.state_dict()
        if [t.shape for t in own.values()] != [t.shape for t in lower]:
            raise BadInput(
                f"the extractor has {len(lower)} tensors of other shapes than this network's {len(own)}",
                where=str(path),
                fix="use the network and cut that the weights were trained with",
            )
        network.lower.load_state_dict(dict(zip(own, lower, strict=True)))
        if keep_last:
            network.upper.load_state_dict(dict(zip(network.upper.state_dict(), upper, strict=True)))
        else:
            _fill(network.upper, upper, where=str(path))
    if codebook is not None and start in ("pretrained", "codebook"):
        path = Path(f"{stem}_mem.pth")
        blocks = state.read_file(path)
        if not isinstance(blocks, Tensor) or blocks.shape != codebook.blocks.shape:
            raise BadInput(
                f"the file holds no codebook of {list(codebook.blocks.shape)}",
                where=str(path),
                fix="give codec.n_blocks and codec.length of the pretraining",
            )
        with torch.no_grad():
            codebook.blocks.copy_(blocks)
        codebook.settle()


def check_stem(stem: str) -> None:
    """Refuse a stem without files before anything is built.

    :raises MissingAsset: naming the files.
    """
    if not Path(f"{stem}_net.pth").is_file() and not Path(f"{stem}_mem.pth").is_file():
        raise MissingAsset(
            f"neither {stem}_net.pth nor {stem}_mem.pth exists",
            where="learner.pretrained",
            fix="clk run --plugin crumb --test pretrain-imagenet makes them",
        )
