"""Every writing step of the pipeline, killed at random moments, its folder moved, resumed: equal to an undisturbed run.

``verify``, ``status``, ``relocate`` and ``explore`` only read, or write one file at the end.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cl_plugin_clear.curation import concepts
from cl_plugin_clear.data import toy
from cl_plugin_clear.data.members import members_of

from .conftest import GROUP, LABELS, as_original

STEPS: dict[str, str] = {
    "metadata": "metadata --root store --source raw --chunk-size 40 --threads 2",
    "download": "download --root store --threads 2 --min-edge 50 --max-aspect-ratio 2 --retry-wait 0",
    "download-tar": "download --root packed --threads 2 --min-edge 50 --max-aspect-ratio 2 --retry-wait 0 --output tar",
    "split": "split --root store --name equal --buckets 3",
    "embed": "embed --root store --split equal --model toy --shard-rows 40 --threads 1 --batch-size 20",
    "retrieve": "retrieve --root store --concepts group.json --out T --label-map labels.json",
    "build": "build --root store --out T --save-all-metadata --test-ratio 0.3",
    "features": "features --folder T --name clip --clip toy",
    "images": "images --folder T --threads 2 --retry-wait 0",
    "mturk": "mturk out --folder T --to tasks --url-prefix https://host",
    "collect": "collect --folder T --feedback feedback --to clean --num-imgs 5",
    "holdout": "holdout --folder T --public clean --to hold --num-imgs 1 --after-line 300",
    "moco": "moco --data store:equal/0 --root store --to moco --arch tiny --epochs 3 --batch-size 16 --queue 64 "
    "--dim 16 --image-size 24 --device cpu --workers 1",
    "lincls": "lincls --data sides --weights moco/checkpoint_0002.pth.tar --arch tiny --to linear --epochs 6 --lr 1 "
    "--image-size 24 --batch-size 20 --cached --device cpu",
    "export": "export --root store --to export.parquet --labelled T",
    "import-legacy": "import-legacy --root imported --source old --chunk-size 60",
    "relabel": "relabel --folder T --label-map renames.json",
    "forget": "forget --root store --ids forgotten.txt --labelled T",
    "from-folder": "from-folder photos --root own --chunk-size 10",
    "classes": "classes --root own --split equal-3 --out mine",
}
"""Name -> command, in the order in which each finds what it needs."""

LOGS = (".lock", "events.jsonl", "environment.json", "run.json")
"""Files that say when, where and how often."""

SMALL = {"n_records": 500, "n_buckets": 3, "chunk_size": 100, "class_size": 6, "pool": 60, "epochs": 2}
WHOLE = [word for key, value in SMALL.items() for word in ("--set", f"experiment.{key}={value}")]


def prepare(base: Path, step: str) -> None:
    """What a person would lay ready before this step."""
    if step == "metadata":
        toy.write_metadata(base / "raw", 400)
    elif step == "download-tar":
        command(base, "metadata --root packed --source raw --chunk-size 40")
    elif step == "retrieve":
        concepts.write_concepts(base / "group.json", GROUP)
        (base / "labels.json").write_text(json.dumps(LABELS))
    elif step == "collect":
        _, members = members_of(base / "T")
        for bucket, classes in members.items():
            for label, records in classes.items():
                for photo in list(records)[: 5 + (label != "BACKGROUND")]:
                    path = base / "feedback" / bucket / label / f"{photo}.json"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps({"task_result": {"annotations": [{"input": {"value": [label]}}]}}))
    elif step == "lincls":
        for side, bucket in (("train", 1), ("val", 2)):
            shutil.copytree(base / "T" / "labeled_images" / str(bucket), base / "sides" / side)
    elif step == "import-legacy":
        as_original(base / "store", base / "old", "/data3/someone/yfcc")
    elif step == "relabel":
        (base / "renames.json").write_text(json.dumps({"disc": "ring", "ring": "disc", "stripes": "zebra"}))
    elif step == "forget":
        _, members = members_of(base / "T")
        photos = [photo for classes in members.values() for photo in list(classes["ring"])[:2]]
        (base / "forgotten.txt").write_text("\n".join(photos))
    elif step == "from-folder":
        dated_photographs(base / "photos")
    elif step == "classes":
        command(base, "split --root own --buckets 3")


def dated_photographs(folder: Path) -> None:
    """Eighteen photographs in each of two class folders, a month apart."""
    for shape in ("disc", "ring"):
        (folder / shape).mkdir(parents=True)
        for i in range(18):
            exif = Image.Exif()
            exif[0x0132] = f"{2005 + i // 12}:{1 + i % 12:02}:0{1 + (shape == 'ring')} 00:00:00"
            Image.fromarray(toy.render(shape, i / 2, (shape, i))).save(folder / shape / f"{i}.jpg", exif=exif)


def command(base: Path, line: str) -> None:
    """Run one command undisturbed."""
    program = [sys.executable, "-m", "cl_kernel.cli.main", "clear", *line.split()]
    done = subprocess.run(program, cwd=base, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def timeless(value: Any) -> Any:
    """A JSON value without what a clock wrote."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in ("seconds", "rate", "cost")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def contents(root: Path) -> dict[str, Any]:
    """File -> content, in a form in which equal means equal."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir() or path.name in LOGS or ".scratch" in path.parts:
            continue
        if path.suffix == ".json":
            found[name] = json.dumps(timeless(json.loads(path.read_text())))
        elif path.name == "export.parquet":
            found[name] = pq.read_table(path).to_pylist()
        elif path.suffix in (".tar", ".pt") and path.name.endswith((".pth.tar", ".pt")):
            found[name] = repr(torch.load(path, weights_only=True))
        else:
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="session")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Step -> folder as it is before that step; made when asked for."""
    return {"": tmp_path_factory.mktemp("steps")}


def before(step: str, snapshots: dict[str, Path]) -> Path:
    """The folder as ``step`` finds it."""
    if step not in snapshots:
        order = list(STEPS)
        place = snapshots[""] / step
        earlier = order[order.index(step) - 1] if order.index(step) else None
        if earlier is None:
            place.mkdir()
        else:
            shutil.copytree(before(earlier, snapshots), place)
            command(place, STEPS[earlier])
        prepare(place, step)
        snapshots[step] = place
    return snapshots[step]


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_and_moved_step_ends_as_an_undisturbed_one(
    step: str, snapshots: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(before(step, snapshots), tmp_path / "start")
    kill_and_compare(tmp_path, ["clear", *STEPS[step].split()])


@pytest.mark.slow
def test_the_whole_run_killed_moved_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    kill_and_compare(tmp_path, ["run", "--plugin", "clear", *WHOLE, "--output", "run", "--", "resume", "run"])


def kill_and_compare(folder: Path, words: list[str]) -> None:
    """Let the driver kill; everything that is left must be equal."""
    driver = [sys.executable, str(Path(__file__).with_name("killing.py")), str(folder), "7", *words]
    done = subprocess.run(driver, capture_output=True, text=True, timeout=3600)
    logs = "\n".join(path.read_text()[-1500:] for path in sorted(folder.glob("*.log")))
    assert done.returncode == 0, done.stderr[-2000:] + logs
    report = json.loads(done.stdout)
    assert report["kills"] >= report["attempts"] // 2, report
    expected = contents(folder / "whole")
    assert expected != contents(folder / "start")
    for name in report["results"]:
        found = contents(folder / name)
        assert sorted(found) == sorted(expected), name
        assert [file for file in found if found[file] != expected[file]] == [], name
