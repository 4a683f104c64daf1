"""Raw data in the forms in which they are published, from ``clk data list`` to a run. The pictures are drawn here."""

from __future__ import annotations

import gzip
import json
import struct
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cl_kernel import ClkError
from cl_kernel.cli.console import Console
from cl_kernel.library.data_command import data
from cl_kernel.registry import discover
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import run_plan
from cl_plugin_butd.data import glyphs

SHORT = {"run.plots": False, "learner.epochs": 1, "learner.later_epochs": 1, "learner.pictures": 0}
SMALL = {**SHORT, "learner.filters": [8, 12, 16], "dataset.directions": ["right", "left"]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))


def characters(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, 28, 28] lying on their side, and every class several times."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 47
    return (rng.random((n, 28, 28)) < 0.3).astype(np.uint8) * 200, labels.astype(np.uint8)


SIDES = {"train": characters(47 * 4, 0), "test": characters(47, 1)}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, *, packed: bool) -> None:
    folder.mkdir(parents=True)
    for side, (images, labels) in SIDES.items():
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"emnist-balanced-{side}-{kind}-ubyte" + (".gz" if packed else "")
            (folder / name).write_bytes(gzip.compress(idx(array)) if packed else idx(array))


def write_mat(folder: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    folder.mkdir(parents=True)
    content = {
        side: {"images": images.reshape(-1, 784), "labels": labels[:, None]} for side, (images, labels) in SIDES.items()
    }
    scipy_io.savemat(folder / "emnist-balanced.mat", {"dataset": {**content, "mapping": np.zeros((47, 2))}})


def listed(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    parser = ArgumentParser()
    handle = data(parser)
    capsys.readouterr()
    handle(parser.parse_args(["list", "--data-root", str(root)]), Console(as_json=True))
    return {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}


def run(folder: Path, root: Path, test: str, **values: Any) -> dict[str, Any]:
    registry = discover()
    request = make_request(
        test, plugin="butd", settings={**SMALL, **values}, seed=0, profile="tiny", data_roots=[str(root)]
    )
    run_plan(registry, plan(registry, request), folder, comparisons=False)
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found


FORMS = {
    "gzip": lambda root: write_idx(root / "gzip", packed=True),
    "unpacked": lambda root: write_idx(root / "EMNIST", packed=False),
    "matlab": lambda root: write_mat(root / "matlab"),
}


@pytest.mark.parametrize("form", FORMS)
def test_emnist_is_read_as_nist_ships_it(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    FORMS[form](root)
    assert listed(root, capsys)["butd:emnist-grid"] == "found"
    read = glyphs.load("emnist", root)
    assert read.labels.tolist() == [*SIDES["train"][1].tolist(), *SIDES["test"][1].tolist()]
    assert np.array_equal(read.images[5], SIDES["train"][0][5].T)
    grid = {"dataset": "butd:emnist-grid", "dataset.rows": 1, "dataset.columns": 3, "dataset.cell": 14}
    size = {"dataset.n_train": 60, "dataset.n_test": 20, "dataset.per_picture": 1, "dataset.scale": [0.8, 0.9]}
    found = run(tmp_path / "run", root, "CL_DIRECTIONS", **grid, **size)
    assert found["finished"] and found["stages"] == ["right", "left"]


def test_a_damaged_file_of_nist_is_named_with_what_to_do(tmp_path: Path) -> None:
    write_idx(tmp_path / "gzip", packed=True)
    images, labels = (tmp_path / "gzip" / f"emnist-balanced-train-{k}-ubyte.gz" for k in ("images-idx3", "labels-idx1"))
    whole = images.read_bytes()
    for content, said in (
        (whole[: len(whole) // 2], r"images-idx3-ubyte\.gz cannot be unpacked"),
        (gzip.compress(gzip.decompress(whole)[:-9]), r"says \[188, 28, 28\] and holds 147383 bytes"),
        (gzip.compress(b"PK\x03\x04 not idx"), "is no idx file"),
    ):
        images.write_bytes(content)
        with pytest.raises(ClkError, match=said) as refused:
            glyphs.load("emnist", tmp_path)
        assert "unpack NIST's archive again" in str(refused.value)
    images.write_bytes(whole)
    labels.write_bytes(gzip.compress(idx(SIDES["test"][1])))
    with pytest.raises(ClkError, match=r"labels of shape \(47,\)"):
        glyphs.load("emnist", tmp_path)
    labels.unlink()
    with pytest.raises(ClkError, match=r"train-labels-idx1-ubyte\.gz is not there"):
        glyphs.load("emnist", tmp_path)


@pytest.mark.parametrize("place", ["omniglot-py/images_background", "python/images_background_small1"])
def test_parts_of_omniglot_are_learnt_language_by_language(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, root = np.random.default_rng(0), tmp_path / "data"
    for name, n in (("Greek", 8), ("Korean", 7), ("Latin", 6)):
        for c in range(n):
            folder = root / place / name / f"character{c + 1:02d}"
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(rng.random((105, 105)) > 0.1).save(folder / f"{c:04d}_{i:02d}.png")
    assert listed(root, capsys)["butd:omniglot"] == "found"
    size = {"dataset.n_train": 40, "dataset.n_test": 15, "dataset.per_picture": 1}
    found = run(tmp_path / "run", root, "CL_DIRECTIONS", dataset="butd:omniglot", **size)
    assert found["stages"] == ["initial right", "initial left", "Latin right", "Latin left"]


def test_clevr_as_unzipped_from_the_list_to_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, root = np.random.default_rng(0), tmp_path / "data"
    top = root / "CLEVR_v1.0"
    (top / "scenes").mkdir(parents=True)
    (top / "images" / "train").mkdir(parents=True)
    scenes = []
    for number in range(40):
        name = f"CLEVR_train_{number:06d}.png"
        Image.fromarray(rng.integers(0, 255, (320, 480, 3), np.uint8).astype(np.uint8)).save(
            top / "images" / "train" / name
        )
        objects = [
            {
                "size": "large",
                "color": color,
                "material": "metal",
                "shape": "cube",
                "pixel_coords": [int(rng.integers(40, 440)), int(rng.integers(60, 260)), 9.0],
            }
            for color in ("red", "blue", "green")
        ]
        place = [thing["pixel_coords"] for thing in objects]
        ways = {"right": (0, 1), "left": (0, -1), "front": (1, 1), "behind": (1, -1)}
        relations = {
            way: [[j for j in range(3) if sign * (place[j][axis] - place[i][axis]) > 0] for i in range(3)]
            for way, (axis, sign) in ways.items()
        }
        scenes.append({"image_filename": name, "objects": objects, "relationships": relations})
    content = {"info": {"split": "train"}, "scenes": scenes}
    (top / "scenes" / "CLEVR_train_scenes.json").write_text(json.dumps(content), encoding="utf-8")
    assert listed(root, capsys)["butd:clevr"] == "found"
    values = {key: value for key, value in SMALL.items() if key != "dataset.directions"}
    registry = discover()
    request = make_request(
        learner="butd:zero-forgetting", dataset="butd:clevr", settings=values, seed=0, data_roots=[str(root)]
    )
    run_plan(registry, plan(registry, request), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert found["stages"] == ["right", "left", "front", "behind"]
