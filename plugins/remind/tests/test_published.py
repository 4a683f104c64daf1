"""Trees in the form the data sets are published in, from the list of data sets to a finished run and back.

Names and folders are those of the data sets' own pages and papers; pictures are noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from cl_kernel import BadInput, Interrupted, MissingAsset, Resources, discover, run
from cl_kernel.cli.main import main
from cl_plugin_remind.data import features, published, toy
from cl_plugin_remind.settings import Questions

SHORT = {"run.plots": False, "run.device": "cpu"}
CLASSES = {**SHORT, "learner.base_epochs": 1, "learner.replay_samples": 4, "metrics": "accuracy"}
WORDS = {**SHORT, "learner.epochs": 1, "learner.replay_samples": 4, "learner.batch_size": 16}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))


def picture(path: Path, size: tuple[int, int], rng: np.random.Generator) -> None:
    """A smooth picture of noise, of width and height ``size``, in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(size)
    noise.save(path, {".JPEG": "jpeg"}.get(path.suffix))


def weights(root: Path, network: str, name: str) -> None:
    """A file of torchvision's under its published name, with random weights."""
    torch.manual_seed(0)
    (root / "torchvision").mkdir(parents=True, exist_ok=True)
    torch.save(getattr(torchvision.models, network)(weights=None).state_dict(), root / "torchvision" / name)


def core50(root: Path) -> None:
    """``core50_128x128/s<session>/o<object>/C_<session>_<object>_<frame>.png``, two objects of three categories."""
    rng = np.random.default_rng(0)
    for session in (1, 2, 4, 3):
        for thing in (1, 2, 6, 7, 11, 12):
            for frame in range(21):
                name = f"C_{session:02d}_{thing:02d}_{frame:03d}.png"
                picture(root / "core50_128x128" / f"s{session}" / f"o{thing}" / name, (128, 128), rng)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), root / "resnet18-f37072fd.pth")


def imagenet(root: Path, endings: tuple[str, ...] = ("JPEG",), folder: str = "imagenet") -> None:
    """``train/<wnid>/<wnid>_<n>.JPEG``, ``val/<wnid>/ILSVRC2012_val_<n>.JPEG``."""
    rng = np.random.default_rng(0)
    number = 0
    for wnid in ("n01440764", "n01443537", "n01484850", "n01491361"):
        for side, count in (("train", 4), ("val", 2)):
            for k in range(count):
                number += 1
                name = f"{wnid}_{k}" if side == "train" else f"ILSVRC2012_val_{number:08d}"
                ending = endings[number % len(endings)]
                picture(root / folder / side / wnid / f"{name}.{ending}", (500, 375), rng)


def own(root: Path) -> None:
    """Photographs of one's own, in every format, with spaces in names."""
    imagenet(root, ("jpg", "png", "webp"), "")
    for side in ("train", "val"):
        (root / side / "n01440764").rename(root / side / "my cats")
    (root / "order.txt").write_bytes(b"\xef\xbb\xbfn01491361\r\nmy cats\r\nn01443537\r\nn01484850\r\n")


def clevr(root: Path, n_images: int = 12, n_questions: int = 60) -> None:
    """``CLEVR_v1.0/questions/CLEVR_train_questions.json``, ``CLEVR_v1.0/images/train/CLEVR_train_000000.png``."""
    rng = np.random.default_rng(0)
    for side in ("train", "val"):
        scenes, _ = toy.draw_scenes(n_images, rng)
        for k in range(n_images):
            picture(root / "CLEVR_v1.0" / "images" / side / f"CLEVR_{side}_{k:06d}.png", (480, 320), rng)
        rows: list[dict[str, Any]] = []
        while len(rows) < n_questions:
            image = int(rng.integers(n_images))
            if (asked := toy.ask_clevr(toy.CLEVR_TYPES[len(rows) % 5], scenes[image], rng)) is not None:
                rows.append(
                    {
                        "question_index": len(rows),
                        "question_family_index": 2,
                        "split": side,
                        "image_filename": f"CLEVR_{side}_{image:06d}.png",
                        "image_index": image,
                        "question": asked[0],
                        "answer": asked[1],
                        "program": asked[2],
                    }
                )
        info = {"split": side, "license": "CC BY 4.0", "version": "1.0", "date": "2/14/2017"}
        path = root / "CLEVR_v1.0" / "questions" / f"CLEVR_{side}_questions.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"info": info, "questions": rows}))


TDIUC_TYPES = (
    "object_presence",
    "color",
    "counting",
    "positional_reasoning",
    "object_recognition",
    "activity_recognition",
    "scene_recognition",
    "sentiment_understanding",
    "attribute",
    "sport_recognition",
    "utility_affordance",
    "absurd",
)


def tdiuc(root: Path, n_images: int = 12) -> None:
    """``TDIUC/Annotations/mscoco_train2014_annotations.json``, ``TDIUC/Images/train2014/COCO_train2014_*.jpg``."""
    rng = np.random.default_rng(0)
    for side in ("train", "val"):
        numbers = rng.permutation(500_000)[:n_images].tolist()
        for number in numbers:
            picture(root / "TDIUC" / "Images" / f"{side}2014" / f"COCO_{side}2014_{number:012d}.jpg", (640, 480), rng)
        annotations, questions = [], []
        for kind, type_name in enumerate(TDIUC_TYPES):
            for k in range(26 - 2 * kind):
                common = {"question_id": 100 * kind + k, "image_id": numbers[k % n_images]}
                answers = [{"answer": f"{type_name} {k % 2}", "answer_confidence": "yes", "answer_id": 1}]
                annotations.append({**common, "question_type": type_name, "answers": answers, "ans_source": "imported"})
                questions.append({**common, "question": f"What {type_name} is it, the {k}th?"})
        for folder, name, key, rows in (
            ("Annotations", f"mscoco_{side}2014_annotations.json", "annotations", annotations),
            ("Questions", f"OpenEnded_mscoco_{side}2014_questions.json", "questions", questions),
        ):
            path = root / "TDIUC" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"info": {"version": "1.0"}, "data_subtype": f"{side}2014", key: rows}))


FEW = {"dataset.base_classes": 2, "dataset.increment": 2, "learner.base_batch": 8}
TREES: dict[str, tuple[Callable[[Path], None], str, str, dict[str, Any]]] = {
    "core50": (core50, "remind:core50", "core50-class-instance", CLASSES),
    "imagenet": (imagenet, "remind:imagenet", "imagenet-cls-iid", {**CLASSES, **FEW}),
    "own": (own, "remind:imagenet", "imagenet-custom-order", {**CLASSES, **FEW}),
    "clevr": (clevr, "remind:clevr", "clevr-qtype", WORDS),
    "tdiuc": (tdiuc, "remind:tdiuc", "tdiuc-iid", WORDS),
}


def status(capsys: pytest.CaptureFixture[str], root: Path, name: str) -> str:
    capsys.readouterr()
    assert main(["data", "list", "--data-root", str(root), "--json"]) == 0
    return next(row["status"] for row in json.loads(capsys.readouterr().out) if row["name"] == name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TREES)
def test_a_published_tree_runs_its_paper_profile_and_resumes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, dataset, test, short = TREES[name]
    root = tmp_path / "data"
    make(root)
    if name in features.DEFAULTS:
        network = features.DEFAULTS[name][0]
        weights(root, network, features.WEIGHTS[network])
        assert status(capsys, root, dataset) == "missing"
        order = test.rsplit("-", 1)[1]
        for _ in range(2):  # the second time it is there already
            assert main(["data", "prepare", f"{dataset}:{order}", "--data-root", str(root)]) == 0
    assert name == "own" or status(capsys, root, dataset) == "found"
    more = {"dataset.class_order": str(root / "order.txt")} if name == "own" else {}
    asked = {"plugin": "remind", "test": test, "profile": "paper", "data_roots": [str(root)], "comparisons": False}
    whole = run(**asked, output=tmp_path / "whole", settings={**short, **more})
    with pytest.raises(Interrupted):
        run(**asked, output=tmp_path / "stopped", settings={**short, **more, "run.stop_at_step": 2})
    assert main(["resume", str(tmp_path / "stopped"), "--no-comparisons"]) == 0
    again = json.loads((tmp_path / "stopped" / "metrics.json").read_text())
    assert again["finished"] and whole.results["finished"]
    for digest in ("digest", "state_digest"):
        assert again[digest] == whole.results[digest]


# ---- broken trees -----------------------------------------------------------------------------------


def resources(root: Path) -> Resources:
    return Resources(roots=(root,), locator=discover(only=["remind"]).locate)


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first block of ResNet-18 instead of ResNet-101: what is tested here is what happens around it."""
    monkeypatch.setitem(features.DEFAULTS, "clevr", ("resnet18", 1, "all_clevr", "map_clevr"))
    monkeypatch.setitem(features.WEIGHTS, "resnet18", "resnet18-f37072fd.pth")


def test_what_is_missing_is_named_with_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingAsset, match=r"dl\.fbaipublicfiles\.com"):
        published.clevr(Questions(), resources(tmp_path))
    (tmp_path / "CLEVR_v1.0.zip").write_bytes(b"")
    with pytest.raises(MissingAsset, match=r"unpack .*CLEVR_v1\.0\.zip"):
        published.clevr(Questions(), resources(tmp_path))
    fast(monkeypatch)
    clevr(tmp_path)
    with pytest.raises(MissingAsset, match=r"download\.pytorch\.org/models/resnet18-f37072fd\.pth"):
        published.clevr(Questions(), resources(tmp_path))


def test_a_broken_picture_is_named_and_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fast(monkeypatch)
    clevr(tmp_path)
    weights(tmp_path, "resnet18", "resnet18-f37072fd.pth")
    place = tmp_path / "CLEVR_v1.0" / "images" / "val" / "CLEVR_val_000003.png"
    whole = place.read_bytes()
    place.unlink()
    with pytest.raises(BadInput, match="images that questions ask about are missing, the first has the number 23"):
        published.clevr(Questions(), resources(tmp_path))
    place.write_bytes(whole[:2000])
    monkeypatch.setattr(features, "_FLUSHED", 1)
    few = Questions(codebooks=4, codebook_size=16)
    with pytest.raises(BadInput, match=r"(?s)the image cannot be read.*CLEVR_val_000003\.png"):
        published.clevr(few, resources(tmp_path))
    place.write_bytes(whole)
    caplog.set_level("INFO")
    folder = published.clevr(few, resources(tmp_path))
    assert "features of 24 of 24 images" in caplog.text and (folder / "codes_qtype.h5").is_file()
    caplog.clear()
    published.clevr(few, resources(tmp_path))
    assert [record.message for record in caplog.records if record.name == published.__name__] == [
        f"{step}: there already" for step in ("questions", "features", "codes qtype")
    ]


def test_codes_of_other_settings_are_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)
    clevr(tmp_path)
    weights(tmp_path, "resnet18", "resnet18-f37072fd.pth")
    published.clevr(Questions(codebooks=4, codebook_size=16), resources(tmp_path))
    asked = ["run", "--plugin", "remind", "--test", "clevr-qtype", "--profile", "paper", "--data-root", str(tmp_path)]
    assert main([*asked, "--output", str(tmp_path / "run")]) == 2
