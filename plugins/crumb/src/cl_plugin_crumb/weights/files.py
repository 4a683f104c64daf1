"""Weight files of the original's form: ``STEM_net.pth`` and ``STEM_mem.pth``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cl_kernel import BadInput, BadSetting, MissingAsset, write_json
from cl_kernel.torch import state
from cl_kernel.torch.split import Split
from cl_plugin_crumb.network import networks
from cl_plugin_crumb.network.codebook import Codebook


def save_files(stem: Path, network: Split, codebook: Codebook | None) -> None:
    """``STEM_net.pth`` (prefixes ``FeatureExtractor.`` and ``block.``, and the codebook) and ``STEM_mem.pth``."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"FeatureExtractor.{k}": v.cpu() for k, v in network.lower.state_dict().items()}
    tensors |= {f"block.{k}": v.cpu() for k, v in network.upper.state_dict().items()}
    if codebook is not None:
        tensors["crumbr.memory"] = codebook.blocks.detach().cpu()
        save_blocks(stem, codebook)
    torch.save(tensors, f"{stem}_net.pth")


def save_blocks(stem: Path, codebook: Codebook) -> None:
    """``STEM_mem.pth``: the codebook alone."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    torch.save(nn.Parameter(codebook.blocks.detach().cpu().clone()), f"{stem}_mem.pth")


def load_files(stem: str, network: Split, codebook: Codebook | None, start: str, *, keep_last: bool = False) -> None:
    """Take weights, codebook or both from ``STEM_net.pth`` and ``STEM_mem.pth``, ours or the original's.

    The codebook inside the weight file is skipped, so "weights only" means it.

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
            fill(network.upper, upper, where=str(path))
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


def save_pretraining(stem: Path, name: str) -> None:
    """``STEM_pretraining.json``: the name of the pretraining that made the weights."""
    write_json(Path(f"{stem}_pretraining.json"), {"pretraining": name})


def check_pretraining(stem: str, wanted: str, said: str = "") -> None:
    """Refuse weights of another pretraining than the run needs: it would be another arm than its name says.

    :param wanted: name of the pretraining that the run needs.
    :param said: what the user says of files without a record, as the authors' are; by default ``unablated``.
    :raises BadSetting: naming both, and how to make the right one.
    """
    path = Path(f"{stem}_pretraining.json")
    if path.is_file():
        try:
            made = str(json.loads(path.read_text())["pretraining"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"the record names no pretraining: {error}", where=str(path)) from error
    else:
        made = said or "unablated"
    if made != wanted:
        raise BadSetting(
            f"this run needs weights of the pretraining {wanted!r}, these are of {made!r}"
            + ("" if path.is_file() else " (or do not say)"),
            where=f"learner.pretrained={stem}",
            fix=f"clk run --plugin crumb --test pretrain-{wanted} --profile paper makes them"
            + ("" if path.is_file() else f"; if they are, --set learner.pretrained_as={wanted}"),
        )


def find_stem(given: str) -> str:
    """The stem of pretrained files, before anything is built.

    :param given: the stem, or the folder of a run that wrote such files below itself.
    :raises MissingAsset: when there are none. :raises BadInput: for a folder with files of several.
    """
    if _has_files(given):
        return given
    folder = Path(given)
    stems = (
        sorted({name for path in folder.rglob("CRUMB_*.pth") if (name := _stem_of(path))}) if folder.is_dir() else []
    )
    if len(stems) > 1:
        raise BadInput(
            f"weights of {len(stems)} pretrainings lie below the folder: {', '.join(stems[:4])}",
            where=f"learner.pretrained={given}",
            fix="name one of them",
        )
    if not stems:
        raise MissingAsset(
            f"neither {given}_net.pth nor {given}_mem.pth exists",
            where="learner.pretrained",
            fix="clk run --plugin crumb --test pretrain-imagenet makes them; their run's folder will do, too",
        )
    return stems[0]


def _has_files(stem: str) -> bool:
    return Path(f"{stem}_net.pth").is_file() or Path(f"{stem}_mem.pth").is_file()


def _stem_of(path: Path) -> str:
    """What stands before ``_net.pth`` or ``_mem.pth``; nothing for files of single epochs and of the start."""
    found = re.fullmatch(r"(CRUMB_run\d+)_(?:net|mem)\.pth", path.name)
    return str(path.with_name(found[1])) if found else ""


def fill(network: nn.Module, values: list[Tensor], *, where: str) -> None:
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
