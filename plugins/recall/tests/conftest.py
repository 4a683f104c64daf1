"""TensorFlow quiet, on the CPU, few threads; a cache of its own for each test session; small trees to work on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

SHORT = {
    "dataset.per_class_first": 3,
    "dataset.per_class_later": 3,
    "dataset.n_val": 20,
    "learner.batch_size": 4,
    "learner.interleave_ratio_old": 4,
    "learner.interleave_ratio_new": 4,
    "learner.training_steps_per_class": 1,
    "learner.training_steps_per_class_helper": 3,
    "learner.training_steps_per_class_incremental": 3,
    "learner.overlays": 2,
}
"""Settings that make a run of the stand-in last seconds."""


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that no other session shares."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CLK_CACHE"] = str(folder)
    return folder


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A tree in VOC's layout: 6 classes, images of different sizes, palette PNGs."""
    return write_voc(tmp_path / "voc")


def write_voc(root: Path, n_classes: int = 6, per_class: int = 3) -> Path:
    """Images whose labels are rectangles of one or two classes, with a void column."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"thing{k}\n" for k in range(1, n_classes + 1)))
    for listing in ("train", "val"):
        names = []
        for c in range(1, n_classes + 1):
            for k in range(per_class):
                height, width = 40 + 4 * k, 48 + 2 * c
                name = f"{listing}_{c}_{k}"
                label = np.zeros((height, width), np.uint8)
                label[5:20, 5:20] = c
                if c > 1:
                    label[22:36, 5:20] = rng.integers(1, c + 1)
                label[:, -1] = 255
                image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
                Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg")
                picture = Image.frombytes("P", (width, height), label.tobytes())
                picture.putpalette([v for k in range(256) for v in (k, 255 - k, (7 * k) % 256)])
                picture.save(root / "SegmentationClass" / f"{name}.png")
                names.append(name)
        (root / "ImageSets/Segmentation" / f"{listing}.txt").write_text("\n".join(names) + "\n")
    return root
