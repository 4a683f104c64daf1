"""Tensors of PyTorch's files without PyTorch: zip and pre-1.6 pickles, safetensors. Nothing in a file is run.

The layouts are those of ``torch.save`` (pytorch.org/docs/stable/notes/serialization.html) and of safetensors
(huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from attrs import define, frozen

from cl_kernel import BadCheckpoint

MAGIC = 0x1950A86A20F9469CFC6C
"""First pickled number of a file written before PyTorch 1.6."""
PROTOCOL = 1001

STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
SAFE_KINDS = {
    "F32": "<f4",
    "F64": "<f8",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}

BYSTANDERS = {
    ("argparse", "Namespace"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
    ("torch", "Size"),
    ("torch", "device"),
    ("collections", "defaultdict"),
    ("collections", "Counter"),
}
"""What training scripts store beside the weights; read as an empty object, never called."""

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "backbone", "encoder")
"""Keys under which training scripts keep the weights."""


def as_array(data: bytes | memoryview, kind: str) -> np.ndarray:
    """Raw bytes as numbers; bfloat16 is widened to float32."""
    if kind != "bfloat16":
        return np.frombuffer(data, kind)
    return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")


class Bystander:
    """Takes the place of what is no tensor."""

    def __init__(self, *args: Any, **options: Any) -> None:
        del args, options

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def __hash__(self) -> int:
        return 0


class Ordered(dict[str, Any]):
    """Takes the place of an ordered dictionary, which in a module's state carries attributes of its own."""


@frozen
class Storage:
    """Numbers that tensors are views of."""

    key: str
    kind: str


@define
class Pending:
    """A tensor whose numbers are not read yet; sizes in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor, a copy."""
        steps = tuple(step * numbers.itemsize for step in self.stride)
        if self.size and 0 not in self.size:
            last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
            if last >= numbers.size or self.offset < 0 or min(self.stride, default=0) < 0:
                raise ValueError(f"tensor reaches beyond its storage {self.storage.key}")
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, steps).copy()


class Names(pickle.Unpickler):
    """Lets through only the names that weights and their bystanders are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the file."""
        if (module, name) == ("collections", "OrderedDict"):
            return Ordered
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return lambda storage, offset, size, stride, *_: Pending(storage, offset, tuple(size), tuple(stride))
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if (module, name) in BYSTANDERS:
            return Bystander
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a plain state dict")

    def persistent_load(self, pid: Any) -> Storage:
        """A storage, by its key."""
        if pid[0] != "storage":
            raise pickle.UnpicklingError(f"unknown persistent object {pid[0]!r}")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("storages that are views of others")
        return Storage(str(pid[2]), pid[1])


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a ``.pth`` file, new or old, plain or within a training script's dictionary.

    :raises BadCheckpoint: when it holds anything that would have to be run, or no tensors.
    """
    try:
        loaded, numbers = _zipped(path) if zipfile.is_zipfile(path) else _pickled(path)
        state = unwrap(loaded)
        return {name: tensor.array(numbers(tensor.storage)) for name, tensor in state.items()}
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, EOFError, OSError) as error:
        reason = str(error)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, MemoryError) as error:
        reason = f"damaged ({type(error).__name__}: {error})"
    raise BadCheckpoint(
        f"not a plain torch state dict: {reason[:160]}",
        where=str(path),
        fix="save it with torch.save(model.state_dict(), PATH)",
    )


def unwrap(loaded: Any) -> dict[str, Pending]:
    """The tensors by name, out of wrapping dictionaries and without ``module.`` before the names.

    :raises pickle.UnpicklingError: when there are none.
    """
    while isinstance(loaded, Mapping):
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Pending)}
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None or len(tensors) > 8:
            if not tensors:
                raise pickle.UnpicklingError(f"no tensors among its keys {sorted(map(str, loaded))[:8]}")
            while all(name.startswith("module.") for name in tensors):
                tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
            return tensors
        loaded = inner
    raise pickle.UnpicklingError(f"holds a {type(loaded).__name__}, not a dictionary of tensors")


def _zipped(path: Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if name is None:
            raise pickle.UnpicklingError("a zip file without data.pkl")
        root = name.removesuffix("/data.pkl")
        loaded = Names(io.BytesIO(archive.read(name))).load()
    kept: dict[str, np.ndarray] = {}

    def numbers(storage: Storage) -> np.ndarray:
        if storage.key not in kept:
            with zipfile.ZipFile(path) as archive:
                kept[storage.key] = as_array(archive.read(f"{root}/data/{storage.key}"), storage.kind)
        return kept[storage.key]

    return loaded, numbers


def _pickled(path: Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    with path.open("rb") as file:
        if Names(file).load() != MAGIC or Names(file).load() != PROTOCOL:
            raise pickle.UnpicklingError("neither a zip file nor a pickle of torch.save")
        little = Names(file).load().get("little_endian", True)
        loaded = Names(file).load()
        keys = [str(key) for key in Names(file).load()]
        if not little:
            raise pickle.UnpicklingError("written on a big-endian machine")
        kinds: dict[str, str] = {}
        _kinds_of(loaded, kinds)
        kept = {key: _storage(file, kinds.get(key), key) for key in keys}
    return loaded, lambda storage: kept[storage.key]


def _kinds_of(value: Any, kinds: dict[str, str]) -> None:
    if isinstance(value, Pending):
        kinds[value.storage.key] = value.storage.kind
    elif isinstance(value, Mapping):
        for inner in value.values():
            _kinds_of(inner, kinds)
    elif isinstance(value, list | tuple):
        for inner in value:
            _kinds_of(inner, kinds)


def _storage(file: BinaryIO, kind: str | None, key: str) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    if kind is None:
        raise pickle.UnpicklingError(f"storage {key} belongs to no tensor that can be read")
    width = 2 if kind == "bfloat16" else np.dtype(kind).itemsize
    data = file.read(count * width)
    if len(data) != count * width:
        raise pickle.UnpicklingError(f"ends in the middle of storage {key}")
    return as_array(data, kind)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file: a length, a JSON header, raw bytes.

    :raises BadCheckpoint: when it is none.
    """
    data = path.read_bytes()
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        body = memoryview(data)[8 + length :]
        found = {}
        for name, entry in header.items():
            if name != "__metadata__":
                numbers = as_array(body[slice(*entry["data_offsets"])], SAFE_KINDS[entry["dtype"]])
                found[name.removeprefix("module.")] = numbers.reshape(entry["shape"])
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"not a safetensors file: {error}", where=str(path)) from error
