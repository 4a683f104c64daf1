"""Arrays of one's own as streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cl_kernel import ClkError, Resources
from cl_kernel.cli.main import main
from cl_kernel.library.datasets.arrays import build_images, build_vectors
from cl_kernel.library.datasets.folder_settings import Arrays

N = 40


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Four classes of ten vectors each, shuffled."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([3, 5, 7, 9], 10))
    return {"x": rng.normal(y[:, None], 0.1, (N, 6)), "y": y}


def write(folder: Path, **arrays: np.ndarray) -> Arrays:
    np.savez(folder / "mine.npz", **arrays)
    return Arrays(path=str(folder / "mine.npz"), n_stages=2)


def test_labels_of_any_kind_become_classes_in_order(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    for y, names in ((arrays["y"], ("3", "5", "7", "9")), (arrays["y"].astype(str), ("3", "5", "7", "9"))):
        stream = build_vectors(write(tmp_path, x=arrays["x"], y=y), Resources())
        assert stream.class_names == names
        assert [stage.classes for stage in stream.stages] == [(0, 1), (2, 3)]
        assert sum(len(stage.train) for stage in stream.stages) + len(stream.test) == N


def test_a_split_given_is_the_split_used(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    split = np.where(np.arange(N) % 4 == 0, "test", "train")
    for given in (split, split == "test", (split == "test").astype(int)):
        stream = build_vectors(write(tmp_path, **arrays, split=given), Resources())
        found = np.sort(stream.test.take(np.arange(len(stream.test)))["vector"][:, 0])
        assert found == pytest.approx(np.sort(arrays["x"][::4, 0].astype(np.float32)))


def test_stages_given_may_bring_classes_again(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    stage = np.where(np.arange(N) < N // 2, 10, 20)
    stream = build_vectors(write(tmp_path, **arrays, stage=stage, split=np.arange(N) % 3 == 0), Resources())
    assert [s.name for s in stream.stages] == ["stage 10", "stage 20"]
    assert [s.classes for s in stream.stages] == [(0, 1, 2, 3)] * 2
    first = stream.test.take(stream.test_sets["stage 10"])["vector"]
    assert np.sort(first[:, 0]) == pytest.approx(np.sort(arrays["x"][: N // 2 : 3, 0].astype(np.float32)))


def test_images_may_be_grey_or_colour(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    for shape in ((N, 8, 8), (N, 8, 8, 3)):
        stream = build_images(write(tmp_path, x=rng.integers(0, 255, shape, np.uint8), y=arrays["y"]), Resources())
        assert stream.task == "image -> class"
        assert stream.spec["image"].shape == (8, 8, 3 if len(shape) == 4 else 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": None}, "no array y"),
        ({"y": np.zeros(N)}, "integers or text"),
        ({"y": np.zeros(N - 1, int)}, "x has 40 samples"),
        ({"x": np.full((N, 6), np.nan)}, r"x\[0\]"),
        ({"x": np.zeros((N, 6, 6, 3), np.uint8)}, "--dataset arrays"),
        ({"x": np.zeros((N, 3, 8, 8), np.uint8)}, "channels last"),
        ({"x": np.zeros((N, 2, 2, 2, 2))}, "uint8"),
        ({"split": np.array(["train", "dev"] * (N // 2))}, "'dev'"),
        ({"stage": np.zeros(N)}, "integer"),
        ({"stage": np.arange(N)}, "no (training|test) samples"),
        ({"y": np.array([{}] * N, object)}, "plain arrays"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], change: dict[str, np.ndarray | None], words: str
) -> None:
    given = {name: array for name, array in (arrays | change).items() if array is not None}
    with pytest.raises(ClkError, match=words) as caught:
        build_vectors(write(tmp_path, **given), Resources())
    assert "mine.npz" in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(b"PK nothing of the kind")
    for path in ("", str(tmp_path / "mine.npz"), str(tmp_path / "other.npz")):
        with pytest.raises(ClkError):
            build_vectors(Arrays(path=path), Resources())


def test_a_run_of_ones_own_arrays_needs_no_package(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    write(tmp_path, **arrays)
    asked = [
        "run",
        "--dataset",
        f"vectors:{tmp_path / 'mine.npz'}",
        "--learner",
        "linear",
        "--set",
        "dataset.n_stages=2",
    ]
    assert main([*asked, "--set", "run.plots=false", "--output", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a" / "metrics.json").is_file()
