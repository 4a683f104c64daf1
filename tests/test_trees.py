"""Checkpoint files: bit-exact, checksummed, never half written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cl_kernel.contract.errors import BadCheckpoint
from cl_kernel.storage.checkpoint import digest_tree, load_tree, save_tree


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


TREES = {
    "empty": {},
    "plain": {"a": 1, "b": 2.5, "c": "text", "d": None, "e": True, "f": [1, [2, "x"]]},
    "large integers": {"pcg": 2**127 + 12345, "negative": -(2**70)},
    "odd floats": {"nan": float("nan"), "inf": float("inf"), "tiny": 5e-324, "third": 1 / 3},
    "arrays": {"w": np.random.default_rng(0).normal(size=(3, 4)), "b": np.arange(5, dtype=np.uint8)},
    "no elements": {"w": np.zeros((0, 3), np.float32), "s": np.array(7)},
    "not contiguous": {"t": np.arange(12).reshape(3, 4)},
    "integer keys": {"counts": {3: 1, 10: 2}, "$a": "not an array"},
    "generator": {"rng": np.random.default_rng(3).bit_generator.state},
    "big endian": {"w": np.arange(4, dtype=">f8")},
    "text array": {"names": np.array(["a", "bcd"])},
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_bit_for_bit(name, tmp_path):
    save_tree(tmp_path / "x.ckpt", TREES[name])
    assert same(TREES[name], load_tree(tmp_path / "x.ckpt"))


def test_loaded_arrays_can_be_written_to(tmp_path):
    save_tree(tmp_path / "x.ckpt", {"w": np.zeros(3)})
    tree = load_tree(tmp_path / "x.ckpt")
    tree["w"] += 1
    assert tree["w"].tolist() == [1, 1, 1]


def test_a_transposed_array_keeps_its_values(tmp_path):
    array = np.arange(12).reshape(3, 4).T
    save_tree(tmp_path / "x.ckpt", {"t": array})
    assert load_tree(tmp_path / "x.ckpt")["t"].tolist() == array.tolist()


def test_overhead_is_at_most_a_tenth(tmp_path):
    tree = {f"layer{i}": np.zeros(4000, np.float32) for i in range(30)}
    written = save_tree(tmp_path / "x.ckpt", tree)
    assert written == (tmp_path / "x.ckpt").stat().st_size
    assert written <= 1.1 * sum(a.nbytes for a in tree.values())


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "appended", "other file", "empty"])
def test_damage_is_noticed(damage, tmp_path):
    path = tmp_path / "x.ckpt"
    save_tree(path, {"w": np.arange(1000)})
    data = bytearray(path.read_bytes())
    match damage:
        case "truncated":
            data = data[:-100]
        case "flipped bit":
            data[len(data) // 2] ^= 1
        case "appended":
            data += b"x"
        case "other file":
            data = bytearray(b"P" * 500)
        case "empty":
            data = bytearray()
    path.write_bytes(data)
    with pytest.raises(BadCheckpoint, match=r"x\.ckpt"):
        load_tree(path)


def test_an_unsavable_value_is_named_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError, match=r"state\['a'\]\['b'\] is a set"):
        save_tree(tmp_path / "x.ckpt", {"a": {"b": {1}}})
    with pytest.raises(TypeError, match="object array"):
        save_tree(tmp_path / "x.ckpt", {"a": np.array([None])})
    assert list(tmp_path.iterdir()) == []


def test_digests_tell_trees_apart():
    base = {"w": np.arange(4), "lr": 0.1}
    assert digest_tree(base) == digest_tree({"w": np.arange(4), "lr": 0.1})
    assert len({digest_tree(t) for t in (base, {"w": np.arange(4.0), "lr": 0.1}, {"w": np.arange(4), "lr": 0.2},
                                         {"w": np.arange(4).reshape(2, 2), "lr": 0.1})}) == 4  # fmt: skip
