"""Torch objects as checkpoint trees (numpy arrays and plain values, bit exact), and weight files read safely.

Arrays stand for tensors; types numpy lacks (bfloat16, float8) travel as their bits.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cl_kernel.contract.errors import BadCheckpoint, BadInput, ClkError, MissingAsset

_FORM = "__form__"  # marks a mapping that stands for something a plain tree cannot hold
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
SHOWN = 3
"""Tensors that a message names of each kind that does not fit."""
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model")


def pack(value: Any) -> Any:
    """Anything torch keeps -> a tree of numpy arrays and plain values that shares no memory with it.

    :param value: tensor, module, optimiser, scheduler, torch or numpy or Python generator, or containers of those.
    :raises BadInput: for an object that has no exact plain form.
    """
    if isinstance(value, Tensor):
        return _pack_tensor(value)
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().copy()
    if isinstance(value, np.random.Generator):
        return pack(value.bit_generator.state)
    if isinstance(value, random.Random):
        return pack(value.getstate())
    if hasattr(value, "state_dict"):
        return pack(value.state_dict())
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: pack(item) for key, item in value.items()}
        return {_FORM: "mapping", "keys": [pack(key) for key in value], "values": [pack(v) for v in value.values()]}
    if isinstance(value, tuple):
        return {_FORM: "tuple", "items": [pack(item) for item in value]}
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise BadInput(f"cannot keep a {type(value).__name__} in a checkpoint: {value!r:.80}")


def unpack(tree: Any) -> Any:
    """The inverse of :func:`pack` for containers and tensors: arrays become tensors on the CPU."""
    if isinstance(tree, np.ndarray):
        return torch.from_numpy(np.array(tree, copy=True, order="C"))
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, Mapping):
        match tree.get(_FORM):
            case None:
                return {key: unpack(item) for key, item in tree.items()}
            case "mapping":
                return dict(zip(map(unpack, tree["keys"]), map(unpack, tree["values"]), strict=True))
            case "tuple":
                return tuple(unpack(item) for item in tree["items"])
            case "bits":
                bits = torch.from_numpy(np.array(tree["bits"], copy=True, order="C"))
                return bits.view(getattr(torch, tree["dtype"]))
            case other:
                raise BadCheckpoint(f"unknown form {other!r} in a checkpoint")
    if isinstance(tree, list | tuple):
        return [unpack(item) for item in tree]
    return tree


def restore(target: Any, tree: Any) -> None:
    """Put a packed tree back into a module, optimiser, scheduler or generator, in place.

    :raises BadCheckpoint: when the tree belongs to another module.
    """
    if isinstance(target, torch.Generator):
        target.set_state(unpack(tree))
    elif isinstance(target, np.random.Generator):
        target.bit_generator.state = _plain(tree)
    elif isinstance(target, random.Random):
        version, words, gauss = unpack(tree)
        target.setstate((version, tuple(words), gauss))
    elif isinstance(target, nn.Module):
        assign(target, unpack(tree), where="checkpoint", error=BadCheckpoint)
    else:
        target.load_state_dict(unpack(tree))


def seed_torch(rng: np.random.Generator) -> None:
    """Seed torch's own generators, which dropout and weight initialisation draw from, once per learner."""
    torch.manual_seed(int(rng.integers(2**62)))


def pack_generators() -> dict[str, Any]:
    """State of torch's own generators, CPU and every CUDA device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state().numpy().copy(), "cuda": [pack(state) for state in cuda]}


def restore_generators(tree: Mapping[str, Any]) -> None:
    """Set torch's own generators; CUDA states are ignored where there is no such device."""
    torch.set_rng_state(unpack(tree["cpu"]))
    if torch.cuda.is_available():
        for index, state in enumerate(tree["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(unpack(state), index)


def read_weights(path: str | Path, *, key: str = "", fix: str = "") -> dict[str, Tensor]:
    """Tensors of a weight file a user gave, by name; nothing in it is executed.

    :param path: ``.safetensors``, or anything ``torch.save`` wrote that holds tensors and plain values only.
    :param key: entry of the file that holds the weights; by default the usual wrappers are looked for.
    :return: name -> tensor, the prefix ``module.`` of data-parallel training removed.
    :param fix: what to do when there is no such file.
    :raises MissingAsset: when there is no such file. :raises BadInput: when it cannot be read safely.
    """
    content = read_file(path, fix=fix)
    where = str(path)
    if key:
        if not isinstance(content, Mapping) or key not in content:
            raise BadInput(f"no entry {key!r} in the weight file", where=where)
        content = content[key]
    else:
        for wrapper in WRAPPERS:
            if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise BadInput(
            "the file holds no table of named tensors",
            where=where,
            fix=f"save module.state_dict(), bare or under one of {', '.join(WRAPPERS)}",
        )
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def read_file(path: str | Path, *, fix: str = "") -> Any:
    """Content of a ``.safetensors`` or ``torch.save`` file, without executing anything in it.

    :param fix: what to do when there is no such file.
    :raises MissingAsset: when there is no such file. :raises BadInput: when it cannot be read safely.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingAsset(f"no weight file {path.name}", where=str(path), fix=fix)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(str(path))
        except SafetensorError as error:
            raise BadInput(f"the weight file cannot be read: {error}", where=str(path)) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        text = str(error).splitlines()[0]
        raise BadInput(
            f"the weight file cannot be read safely: {text}",
            where=str(path),
            fix="save tensors only, or use an explicit import-legacy command",
        ) from error


def assign(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    may_miss: Collection[str] = (),
    ignore_unexpected: bool = False,
    error: type[ClkError] = BadInput,
) -> None:
    """Copy named tensors into a module; every name and shape must fit.

    :param may_miss: names of the module that the file need not hold.
    :param ignore_unexpected: let the file hold more than the module.
    :raises BadInput: naming the first missing, unexpected and mis-shaped tensors, and how many more there are.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors and name not in may_miss]
    unexpected = [] if ignore_unexpected else [name for name in tensors if name not in own]
    shaped = [
        f"{name} is {list(tensors[name].shape)}, needs {list(value.shape)}"
        for name, value in own.items()
        if name in tensors and isinstance(value, Tensor) and tensors[name].shape != value.shape
    ]
    problems = [
        f"{label}: {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("other shape", shaped))
        if names
    ]
    if problems:
        raise error("the weights do not fit the network\n  " + "\n  ".join(problems), where=where)
    module.load_state_dict({name: tensors[name] for name in own if name in tensors}, strict=False)


def _pack_tensor(tensor: Tensor) -> Any:
    tensor = tensor.detach().to("cpu", copy=True).contiguous()
    try:
        return tensor.numpy()
    except TypeError:
        name = str(tensor.dtype).removeprefix("torch.")
        bits = _BITS[tensor.element_size()]
        flat = tensor.reshape(-1).view(bits).reshape(tensor.shape)
        return {_FORM: "bits", "dtype": name, "bits": flat.numpy()}


def _plain(tree: Any) -> Any:
    """A packed tree with its arrays left as they are."""
    if isinstance(tree, Mapping):
        return {key: _plain(item) for key, item in tree.items()}
    return tree
