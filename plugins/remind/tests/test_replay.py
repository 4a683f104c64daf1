"""Quantiser, codec and augmentation, beside the libraries' own answers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from cl_kernel import BadInput, BadSetting, Field, Memory, Mismatch
from cl_kernel.library.memories import policies
from cl_kernel.library.settings import LargestClass
from cl_plugin_remind.method import augment, pq
from cl_plugin_remind.method.codec import PqCodec

CPU = torch.device("cpu")
LABEL = Field(shape=(), dtype="int64", kind="class")


def codec(
    shape: tuple[int, ...],
    kind: str,
    n_codebooks: int = 4,
    n_centroids: int = 16,
    dtype: str = "float32",
    patch: int = 8,
) -> PqCodec:
    return PqCodec(
        {"x": Field(shape=shape, dtype=dtype, kind=kind), "class": LABEL}, n_codebooks, n_centroids, patch, CPU
    )


@pytest.mark.parametrize("n_centroids", [2, 16, 256, 512])
@pytest.mark.parametrize("n_codebooks", [1, 3, 12])
def test_codes_name_the_nearest_centroid(n_codebooks: int, n_centroids: int) -> None:
    rng = np.random.default_rng(0)
    book = pq.Quantiser(
        torch.from_numpy(rng.standard_normal((n_codebooks, n_centroids, 12 // n_codebooks)).astype(np.float32))
    )
    rows = torch.from_numpy(rng.standard_normal((50, 12)).astype(np.float32))
    parts = rows.double().reshape(50, n_codebooks, 1, -1)
    expected = (parts - book.centroids.double()).square().sum(3).argmin(2)
    assert torch.equal(expected, book.encode(rows).long())
    assert book.encode(rows).dtype == (torch.uint8 if n_centroids <= 256 else torch.int32)


def test_equal_centroids_give_the_first() -> None:
    book = pq.Quantiser(torch.ones(2, 8, 3))
    assert book.encode(torch.rand(5, 6)).eq(0).all()


def test_training_agrees_with_faiss_in_distortion_without_it() -> None:
    rows = np.random.default_rng(0).standard_normal((1500, 8)).astype(np.float32)
    errors = []
    for centroids in (pq.train(rows, 2, 16), pq._train_torch(rows, 2, 16)):
        book = pq.Quantiser(torch.from_numpy(centroids))
        data = torch.from_numpy(rows)
        errors.append(float((book.decode(book.encode(data)) - data).square().mean()))
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_a_reservoir_of_rows_stands_for_all_of_them() -> None:
    rng = np.random.default_rng(0)
    maps = [torch.from_numpy(rng.standard_normal((20, 4, 3, 3)).astype(np.float32)) for _ in range(10)]
    few = pq.train_maps(iter(maps), 2, 8, rng.random, max_rows=400)
    every = pq.train(torch.cat([pq.rows_of(m) for m in maps]).numpy(), 2, 8)
    rows = torch.cat([pq.rows_of(m) for m in maps])
    errors = [
        float((b.decode(b.encode(rows)) - rows).square().mean())
        for b in (pq.Quantiser(torch.from_numpy(c)) for c in (few, every))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.15)


@pytest.mark.parametrize(("dim", "n_codebooks", "n_centroids"), [(10, 3, 16), (8, 4, 100), (8, 0, 16), (8, 4, 1)])
def test_sizes_that_do_not_fit_are_refused(dim: int, n_codebooks: int, n_centroids: int) -> None:
    with pytest.raises(BadSetting):
        pq.check_sizes(dim, n_codebooks, n_centroids)


def test_too_few_rows_and_values_that_are_no_numbers_are_named() -> None:
    with pytest.raises(BadInput, match="cannot train"):
        pq.train(np.zeros((5, 4), np.float32), 2, 16)
    rows = np.zeros((50, 4), np.float32)
    rows[3, 1] = np.nan
    with pytest.raises(BadInput, match="no finite numbers"):
        pq.train(rows, 2, 16)
    with pytest.raises(BadInput, match="3 rows cannot train 16 centroids"):
        codec((8,), "vector", n_codebooks=4, n_centroids=16).fit({"x": np.zeros((3, 8), np.float32)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_encoding_refuses_what_is_no_finite_number(value: float) -> None:
    quantiser = pq.Quantiser(torch.rand(4, 16, 2))
    rows = torch.rand(300, 8)
    quantiser.encode(rows)
    rows[217, 5] = value
    with pytest.raises(BadInput, match="no finite numbers"):
        quantiser.encode(rows)


@pytest.mark.parametrize(
    ("shape", "kind", "dtype", "stored"),
    [
        ((8, 3, 3), "map", "float32", 3 * 3 * 4),
        ((12,), "vector", "float32", 4),
        ((5, 8), "map", "float32", 5 * 4),
        ((16, 16, 3), "image", "uint8", 2 * 2 * 4),
        ((8, 8, 1), "image", "float32", 4),
    ],
)
def test_any_field_is_kept_in_exactly_its_bytes(shape: tuple[int, ...], kind: str, dtype: str, stored: int) -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((40, *shape)) * 255).astype(dtype)
    one = codec(shape, kind, dtype=dtype)
    labels = rng.integers(0, 3, 40)
    memory = Memory(policies.build_largest_class(LargestClass(), 40), one, 40, rng)
    memory.add({"x": values, "class": labels}, labels)
    assert one.bytes_per_example() == stored + 8
    assert sum(array.nbytes for array in memory._slots.values()) == 40 * (stored + 8)
    back = memory.take(np.arange(40))
    assert back["x"].shape == values.shape and str(back["x"].dtype) == f"torch.{dtype}"
    assert np.array_equal(back["class"], labels)
    spread = values.astype(np.float64).std()
    assert np.abs(back["x"].double().numpy() - values).mean() < spread  # lossy, but the same picture


def test_a_memory_of_codes_survives_its_state() -> None:
    rng = np.random.default_rng(1)

    def make() -> Memory:
        policy = policies.build_largest_class(LargestClass(), 10)
        return Memory(policy, codec((8, 2, 2), "map"), 10, np.random.default_rng(2))

    memory, other = make(), make()
    labels = rng.integers(0, 3, 30)
    memory.add({"x": rng.random((30, 8, 2, 2), np.float32), "class": labels}, labels)
    other.load(memory.state())
    first, second = memory.sample(5), other.sample(5)
    assert torch.equal(first["x"], second["x"]) and np.array_equal(first["class"], second["class"])


def test_a_cold_codec_keeps_its_first_examples_exactly_and_survives_its_state() -> None:
    rng = np.random.default_rng(0)
    one, other = codec((12,), "vector"), codec((12,), "vector")
    parts = [rng.standard_normal((n, 12)).astype(np.float32) for n in (3, 1, 12, 5)]
    stored = []
    for part in parts:
        stored.append(one.encode({"x": part, "class": np.zeros(len(part), np.int64)}))
        other.load(one.state())
        one, other = other, one
    for part, kept in zip(parts[:3], stored, strict=False):
        assert np.array_equal(one.decode(kept)["x"].numpy(), part)
    assert not np.array_equal(one.decode(stored[3])["x"].numpy(), parts[3])  # the codebooks were full


def test_a_field_of_varying_size_is_refused() -> None:
    with pytest.raises(Mismatch, match="size varies"):
        codec((None, None, 3), "image")


@pytest.mark.parametrize(
    ("height", "width", "side"), [(7, 7, (7, 7)), (4, 4, (4, 4)), (14, 9, (14, 9)), (70, 66, (70, 66)), (7, 7, (5, 6))]
)
def test_crops_at_once_equal_crops_one_by_one(height: int, width: int, side: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    maps = torch.from_numpy(rng.standard_normal((12, 5, height, width)).astype(np.float32))
    windows = augment.Drawn(rng).crops(12, height, width)
    windows[0] = (0, 0, height, width)
    windows[1] = (height - 1, width - 1, 1, 1)
    found = augment.crop(maps, windows, side)
    for one, (top, left, h, w), got in zip(maps, windows.tolist(), found, strict=True):
        part = one[None, :, top : top + h, left : left + w]
        expected = functional.interpolate(part, side, mode="bilinear", align_corners=False)[0]
        assert torch.allclose(got, expected, atol=1e-5)


def test_vectorised_windows_are_drawn_like_single_ones() -> None:
    many = augment.Drawn(np.random.default_rng(0)).crops(4000, 7, 7)
    chance = random.Random(0)
    single = np.array([augment.crop_window(chance, 7, 7) for _ in range(4000)])
    assert (many[:, 0] + many[:, 2] <= 7).all() and (many[:, 1] + many[:, 3] <= 7).all()
    assert many.mean(0) == pytest.approx(single.mean(0), abs=0.12)
    for column in (2, 3):
        ours, theirs = (np.bincount(t[:, column], minlength=8) / 4000 for t in (many, single))
        assert ours == pytest.approx(theirs, abs=0.04)
