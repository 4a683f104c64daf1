"""Trees in the form the data sets are published in, generated small.

Names and folders are those of the data sets' own pages and papers; pictures are noise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image

from cl_plugin_remind.data import toy


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


WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")
"""The first four of the challenge."""


def imagenet(
    root: Path,
    endings: tuple[str, ...] = ("JPEG",),
    folder: str = "imagenet",
    *,
    sizes: tuple[int, int] = (4, 2),
    pixels: tuple[int, int] = (500, 375),
    wnids: Iterable[str] = WNIDS,
) -> None:
    """``train/<wnid>/<wnid>_<n>.JPEG``, ``val/<wnid>/ILSVRC2012_val_<n>.JPEG``."""
    rng = np.random.default_rng(0)
    number = 0
    for wnid in wnids:
        for side, count in zip(("train", "val"), sizes, strict=True):
            for k in range(count):
                number += 1
                name = f"{wnid}_{k}" if side == "train" else f"ILSVRC2012_val_{number:08d}"
                ending = endings[number % len(endings)]
                picture(root / folder / side / wnid / f"{name}.{ending}", pixels, rng)


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
