"""One file for a tree of arrays and plain values: safe, checksummed, bit-exact, the same for every framework.

Layout: magic, header length, JSON header (the tree with ``{"$a": i}`` for array i, and each array's dtype, shape and
offset), the raw arrays on 64-byte boundaries, a BLAKE2b digest of all that. Nothing is ever unpickled. Tuples come
back as lists.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel.contract.errors import BadCheckpoint
from cl_kernel.storage.files import atomic

_MAGIC = b"CLKTREE1"
_ALIGN = 64
_DIGEST = 32


def save_tree(path: Path, tree: Any) -> int:
    """Write ``tree`` atomically and synced to disk.

    :return: bytes written.
    :raises TypeError: naming the place of a value that is neither array nor plain.
    """
    arrays: list[np.ndarray] = []
    skeleton = _strip(tree, "", arrays)
    offset = 0
    entries: list[tuple[str, list[int], int]] = []
    for array in arrays:
        offset = -(-offset // _ALIGN) * _ALIGN
        entries.append((array.dtype.str, list(array.shape), offset))
        offset += array.nbytes
    header = json.dumps({"tree": skeleton, "arrays": entries}, separators=(",", ":")).encode()
    start = -(-(len(_MAGIC) + 8 + len(header)) // _ALIGN) * _ALIGN
    digest = hashlib.blake2b(digest_size=_DIGEST)
    written = 0
    with atomic(path) as file:

        def write(data: Any) -> None:
            nonlocal written
            digest.update(data)
            file.write(data)
            written += memoryview(data).nbytes

        write(_MAGIC + len(header).to_bytes(8, "little") + header)
        write(bytes(start - written))
        for array, (_, _, at) in zip(arrays, entries, strict=True):
            write(bytes(start + at - written))
            if array.nbytes:
                write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.write(digest.digest())
    return written + _DIGEST


def load_tree(path: Path) -> Any:
    """Read a tree back.

    :raises BadCheckpoint: when the file is truncated, altered or of another kind.
    """
    size = path.stat().st_size
    if size < len(_MAGIC) + 8 + _DIGEST:
        raise BadCheckpoint(f"{path.name} is truncated ({size} bytes)", where=str(path))
    data = np.empty(size, np.uint8)
    with path.open("rb") as file:
        file.readinto(data.data)
    view = data.data
    if bytes(view[: len(_MAGIC)]) != _MAGIC:
        raise BadCheckpoint(f"{path.name} is no checkpoint of clk", where=str(path))
    if hashlib.blake2b(view[:-_DIGEST], digest_size=_DIGEST).digest() != bytes(view[-_DIGEST:]):
        raise BadCheckpoint(f"{path.name} is damaged: its checksum does not match", where=str(path))
    length = int.from_bytes(view[len(_MAGIC) : len(_MAGIC) + 8], "little")
    begin = len(_MAGIC) + 8
    header = json.loads(bytes(view[begin : begin + length]))
    start = -(-(begin + length) // _ALIGN) * _ALIGN
    arrays = []
    for dtype, shape, offset in header["arrays"]:
        kind = np.dtype(dtype)
        at = start + offset
        arrays.append(data[at : at + kind.itemsize * math.prod(shape)].view(kind).reshape(shape))
    return _fill(header["tree"], arrays)


def digest_tree(tree: Any) -> str:
    """A digest of the content, equal for equal trees."""
    arrays: list[np.ndarray] = []
    skeleton = _strip(tree, "", arrays)
    digest = hashlib.blake2b(json.dumps(skeleton, sort_keys=True).encode(), digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _strip(node: Any, where: str, arrays: list[np.ndarray]) -> Any:
    if isinstance(node, np.ndarray):
        if node.dtype.hasobject:
            raise TypeError(f"state{where} is an object array; only plain arrays can be saved")
        arrays.append(node)
        return {"$a": len(arrays) - 1}
    if isinstance(node, np.generic):
        return node.item()
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in node):
            return {key: _strip(value, f"{where}[{key!r}]", arrays) for key, value in node.items()}
        return {
            "$d": [[_plain_key(key, where), _strip(value, f"{where}[{key!r}]", arrays)] for key, value in node.items()]
        }
    if isinstance(node, (list, tuple)):
        return [_strip(value, f"{where}[{i}]", arrays) for i, value in enumerate(node)]
    raise TypeError(
        f"state{where} is a {type(node).__name__}; only arrays, numbers, text, lists and mappings can be saved"
    )


def _plain_key(key: Any, where: str) -> Any:
    if isinstance(key, np.generic):
        key = key.item()
    if not isinstance(key, (str, int, float, bool)):
        raise TypeError(f"state{where} has a key of type {type(key).__name__}")
    return key


def _fill(node: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(node, list):
        return [_fill(value, arrays) for value in node]
    if isinstance(node, dict):
        if "$a" in node:
            return arrays[node["$a"]]
        if "$d" in node:
            return {key: _fill(value, arrays) for key, value in node["$d"]}
        return {key: _fill(value, arrays) for key, value in node.items()}
    return node
