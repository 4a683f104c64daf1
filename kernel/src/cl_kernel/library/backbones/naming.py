"""What a network's own classifier says of pictures: the check that weights and preprocessing belong together.

Pictures are read as at the end of an ImageNet training: the shorter side brought to 8/7 of the edge, the centre cut.

Shapes: n pictures, K classes of the classifier.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel.contract.errors import BadInput, MissingAsset
from cl_kernel.library.pictures import is_picture, open_picture

if TYPE_CHECKING:
    from cl_kernel.torch.split import Split

BATCH = 50
BEST = 5


def find_pictures(folder: Path) -> list[Path]:
    """Pictures of a folder and those below it, by name.

    :raises MissingAsset: when there are none.
    """
    found = sorted(path for path in folder.expanduser().glob("**/*") if is_picture(path))
    if not found:
        raise MissingAsset("no pictures in it", where=f"--pictures {folder}")
    return found


def read_labels(path: Path, pictures: Sequence[Path]) -> list[int]:
    """The class of each picture, of a csv with the columns ``file`` and ``index``.

    :raises BadInput: naming the column, row or picture that is missing or no number.
    """
    known: dict[str, int] = {}
    try:
        with path.expanduser().open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                if "file" not in row or not str(row.get("index", "")).isdigit():
                    raise BadInput(f"line {number} has no file and index, a class from 0: {dict(row)}", where=str(path))
                known[row["file"]] = int(row["index"])
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read: {error}", where=str(path)) from error
    if missing := [picture.name for picture in pictures if picture.name not in known]:
        raise BadInput(f"no line for {missing[0]}; {len(missing)} pictures have none", where=str(path))
    return [known[picture.name] for picture in pictures]


def name_pictures(split: Split, pictures: Sequence[Path], edge: int) -> list[dict[str, Any]]:
    """Of each picture its file, the likeliest classes, best first, and the probability of the first."""
    import torch

    split.eval()
    rows: list[dict[str, Any]] = []
    for at in range(0, len(pictures), BATCH):
        part = pictures[at : at + BATCH]
        images = np.stack([_centre(open_picture(path), edge) for path in part])
        with torch.inference_mode():
            shares = split(torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)).softmax(1)
        best = shares.topk(min(BEST, shares.shape[1]))
        for path, values, classes in zip(part, best.values.tolist(), best.indices.tolist(), strict=True):
            rows.append({"file": path.name, "class": classes[0], "probability": values[0], "best": classes})
    return rows


def shares_right(rows: Sequence[Mapping[str, Any]], labels: Sequence[int]) -> dict[str, float]:
    """Shares of pictures whose class is the likeliest, and among the five likeliest."""
    pairs = list(zip(rows, labels, strict=True))
    return {
        "top1": sum(row["class"] == label for row, label in pairs) / len(pairs),
        "top5": sum(label in row["best"] for row, label in pairs) / len(pairs),
    }


def _centre(picture: Any, edge: int) -> np.ndarray:
    """An RGB picture of Pillow as uint8 [edge, edge, 3]."""
    from PIL import Image

    shorter = round(edge * 8 / 7)
    scale = shorter / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - edge) // 2, (height - edge) // 2
    return np.asarray(picture.crop((left, top, left + edge, top + edge)), np.uint8)
