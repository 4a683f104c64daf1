"""Trees in the form in which the data sets are published, pictures generated, by the README's commands alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cl_plugin_recall.evaluate.palette import many_colours

from .test_run import phases_of
from .test_sets import write_ade, write_cityscapes

CLK = [sys.executable, "-m", "cl_kernel.cli.main"]
QUICK = {
    "batch_size": 2,
    "train_image_size": 65,
    "training_steps_per_class": 1,
    "training_steps_per_class_incremental": 2,
    "overlays": 1,
}
HELPED = {"training_steps_per_class_helper": 1, "interleave_ratio_old": 2, "interleave_ratio_new": 2}


def flags(settings: dict[str, int], **others: str) -> list[str]:
    return [f"--set=learner.{key}={value}" for key, value in settings.items()] + [
        f"--set={key.replace('__', '.')}={value}" for key, value in others.items()
    ]


def clk(tmp_path: Path, *command: str) -> str:
    environment = os.environ | {"CLK_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([*CLK, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def picture(path: Path, seed: int, c: int, size: tuple[int, int] = (75, 100)) -> np.ndarray:
    """An image of one object of class ``c``, and its label map with a void border."""
    label = np.zeros(size, np.uint8)
    label[10:50, 20:70], label[12:48, 22:68] = 255, c
    noise = np.random.default_rng(seed).integers(0, 60, (*size, 3))
    shade = np.array([37 * c % 160, 91 * c % 160, 53 * c % 160])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((noise + shade * (label == c)[..., None]).astype(np.uint8)).save(path)
    return label


def write_voc2012(root: Path) -> Path:
    """``VOCdevkit/VOC2012`` as the archive unpacks: palette PNGs, lists of train, val and trainval."""
    voc = root / "VOCdevkit" / "VOC2012"
    for part in ("Annotations", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (voc / part).mkdir(parents=True)
    names: dict[str, list[str]] = {"train": [], "val": []}
    for year, part in (("2007", "train"), ("2008", "val")):
        for c in range(1, 21):
            name = f"{year}_{c:06d}"
            label = Image.fromarray(picture(voc / "JPEGImages" / f"{name}.jpg", c, c), "P")
            label.putpalette(many_colours().reshape(-1).tolist())
            label.save(voc / "SegmentationClass" / f"{name}.png")
            names[part].append(name)
    for part, listed in {**names, "trainval": names["train"] + names["val"]}.items():
        (voc / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("".join(f"{name}\n" for name in listed))
    return voc


def write_sbd(root: Path, voc: Path) -> Path:
    """``benchmark_RELEASE`` as its archive unpacks: MATLAB files, images, lists; some images are VOC's own."""
    from scipy.io import savemat

    dataset = root / "benchmark_RELEASE" / "dataset"
    for part in ("cls", "inst", "img"):
        (dataset / part).mkdir(parents=True)
    listed: dict[str, list[str]] = {"train": ["2007_000001"], "val": ["2008_000002"]}
    for part, year in (("train", "2010"), ("val", "2011")):
        for c in range(1, 21):
            name = f"{year}_{c:06d}"
            label = picture(dataset / "img" / f"{name}.jpg", 100 + c, c)
            label[label == 255] = 0
            truth = {"Segmentation": label, "CategoriesPresent": [c], "Boundaries": np.zeros(0)}
            savemat(dataset / "cls" / f"{name}.mat", {"GTcls": truth})
            listed[part].append(name)
    for part, names in listed.items():
        (dataset / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
    return root / "benchmark_RELEASE"


def write_replay(root: Path, n: int) -> Path:
    for c in range(1, n + 1):
        for k in range(2):
            picture(root / f"{c:02d}" / f"{k}.jpg", 1000 + 10 * c + k, c, (48, 64))
    return root


@pytest.mark.slow
def test_voc_2012_and_sbd_as_published_run_by_the_readmes_commands(tmp_path: Path) -> None:
    data = tmp_path / "data"
    voc = write_voc2012(data)
    root = ["--data-root", str(data)]
    listed = {row["name"]: row for row in json.loads(clk(tmp_path, "data", "list", "--json", *root))}
    assert listed["recall:voc"]["status"] == "found"
    clk(tmp_path, "recall", "import-sbd", str(write_sbd(tmp_path, voc)), "--voc", str(voc))
    replay = write_replay(data / "replay", 20)
    clk(
        tmp_path,
        *("run", "--plugin", "recall", "--test", "15-1", "--profile", "small", *root, "--replay", f"folder:{replay}"),
        *("--no-comparisons", "--output", str(tmp_path / "run"), *flags(QUICK | HELPED)),
    )
    results = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert results["finished"] and [len(classes) for classes in results["classes"]] == [15, 1, 1, 1, 1, 1]
    started = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    images = [event["n_samples"] for event in started if event["event"] == "StageStarted"]
    assert images == [45, 3, 3, 3, 3, 3]  # VOC's train and both parts of SBD
    seen = results["metrics"]["segmentation"]["seen"]
    assert len(seen) == 6 and "iou/tvmonitor" in seen[-1]
    assert "15-1" in clk(tmp_path, "recall", "summary", str(tmp_path / "run"), "--format", "markdown")


def kill_and_resume(tmp_path: Path, run: Path, command: list[str], phase: str) -> None:
    """Run until a phase has begun, kill -9, resume to the end."""
    environment = os.environ | {"CLK_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen([*CLK, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not any(begun.startswith(phase) for begun in phases_of(run)):
        assert process.poll() is None, process.stderr and process.stderr.read()[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    clk(tmp_path, "resume", str(run))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, structure, order, sizes",
    [
        ("ade20k", "100-50", "ade-b", [100, 50]),
        ("cityscapes", "order", "road,sky,car,2,9/person,13,building/4,5,6,7,8,10,15,16,17,18,19", [5, 3, 11]),
    ],
)
def test_published_trees_in_another_order_go_on_after_a_kill(
    tmp_path: Path, name: str, structure: str, order: str, sizes: list[int]
) -> None:
    data = tmp_path / "data"
    if name == "ade20k":
        write_ade(data / "ADEChallengeData2016")
    else:
        write_cityscapes(data / "cityscapes", "labelIds")
    root = ["--data-root", str(data)]
    listed = {row["name"]: row for row in json.loads(clk(tmp_path, "data", "list", "--json", *root))}
    assert listed[f"recall:{name}"]["status"] == "found"
    given = flags(
        QUICK,
        dataset=f"recall:{name}",
        learner="recall:mib",
        dataset__structure=structure,
        dataset__order=order,
        run__checkpoint_every_s="0.1",
    )
    command = [
        "run",
        "--plugin",
        "recall",
        "--test",
        "STRUCTURE",
        "--profile",
        "small",
        "--no-comparisons",
        *root,
        *given,
    ]
    run = tmp_path / "run"
    kill_and_resume(tmp_path, run, [*command, "--output", str(run)], "1 increment")
    clk(tmp_path, *command, "--output", str(tmp_path / "whole"), "--set=learner.reuse=false")
    killed, whole = (json.loads((place / "metrics.json").read_text()) for place in (run, tmp_path / "whole"))
    assert killed["finished"] and [len(classes) for classes in killed["classes"]] == sizes
    assert killed["state_digest"] == whole["state_digest"] and killed["digest"] == whole["digest"]
