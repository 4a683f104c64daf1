"""Data sets in the form in which their authors publish them, generated small; pictures are noise."""

from __future__ import annotations

import io
import pickle
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from cl_plugin_crumb.data import ilab, indexes, toybox


def picture(seed: int, size: tuple[int, int] = (12, 10), ending: str = "png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format={"jpg": "jpeg"}.get(ending, ending))
    return out.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def core50_zip(root: Path) -> Path:
    """``core50_128x128.zip``: s1..s11 / o1..o50 / C_ss_oo_fff.png."""
    path = root / "core50_128x128.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for s in range(1, 12):
            for o in range(1, 51):
                name = f"core50_128x128/s{s}/o{o}/C_{s:02d}_{o:02d}_010.png"
                archive.writestr(name, picture(o // 5))
    return path


def clip(path: Path, *, seconds: float = 8, rate: str = "2", flags: tuple[str, ...] = ()) -> Path:
    program = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed").get_ffmpeg_exe()
    source = f"testsrc=size=64x36:rate={rate}:duration={seconds}"
    words = [program, "-loglevel", "error", "-f", "lavfi", "-i", source, *flags, "-pix_fmt", "yuv420p", str(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(words, check=True, capture_output=True)
    return path


def toybox_videos(root: Path) -> Path:
    """``households|animals|vehicles / cup_01_pivothead / cup_01_pivothead_rxplus.mp4``, 12 clips an object."""
    content = clip(root / "one.mp4", rate="1").read_bytes()
    for group, categories in toybox.CATEGORIES.items():
        for category in categories:
            for session in (*toybox.SESSIONS, *toybox.LEFT_OUT):
                name = f"{category}_01_pivothead"
                put(root / group / name / f"{name}_{session}.mp4", content)
    (root / "one.mp4").unlink()
    return root


def ilab_archive(root: Path) -> Path:
    """``iLab-2M-Light.tar.gz``: ``train_img/boat-i0001-b0002-c03-r04-l0.jpg``."""
    path = root / "iLab-2M-Light.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for label, name in enumerate(ilab.CLASSES):
            for background in range(8):
                for camera in range(15):
                    content = picture(label, ending="jpg")
                    member = tarfile.TarInfo(
                        f"iLab-2M-Light/train_img/{name}-i0001-b{background:04d}-c{camera:02d}-r00-l0.jpg"
                    )
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return path


def cifar_archive(root: Path, *, per_class: int = 2, spoil: Callable[[str, bytes], bytes] = lambda name, c: c) -> Path:
    """``cifar-100-python.tar.gz`` with the keys of the published pickles, as texts of bytes."""
    names = [f"class_{number:02d}".encode() for number in range(100)]
    files: dict[str, Any] = {"meta": {b"fine_label_names": names, b"coarse_label_names": names[:20]}}
    for side, n in (("train", per_class), ("test", 1)):
        labels = list(range(100)) * n
        files[side] = {
            b"data": np.random.default_rng(len(labels)).integers(0, 255, (len(labels), 3072), dtype=np.uint8),
            b"fine_labels": labels,
            b"coarse_labels": [label // 5 for label in labels],
            b"filenames": [f"thing_s_{row:06d}.png".encode() for row in range(len(labels))],
            b"batch_label": b"training batch 1 of 1",
        }
    path = root / "cifar-100-python.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, value in files.items():
            content = spoil(name, pickle.dumps(value, protocol=2))
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def imagenet_tree(root: Path, n_classes: int = 200) -> Path:
    """``train/WNID/WNID_1.JPEG`` and a flat ``val/`` with its solution, as the challenge gives it out."""
    rows = ["ImageId,PredictionString"]
    for number in range(n_classes):
        wnid = f"n{number + 1:08d}"
        put(root / "train" / wnid / f"{wnid}_1.JPEG", picture(number, ending="jpg"))
        put(root / "val" / f"ILSVRC2012_val_{number + 1:08d}.JPEG", picture(number, ending="jpg"))
        rows.append(f"ILSVRC2012_val_{number + 1:08d},{wnid} 1 2 3 4 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(rows))
    return root


def icub_tree(root: Path) -> Path:
    """``part1-4 / CLASS / CLASS1..10 / MIX|... / day4 and day5 / left and right / 00000001.jpg``."""
    for number in range(20):
        name = f"thing{chr(97 + number)}"
        for one in (1, 2, 10):
            for session in indexes.ICUB_SESSIONS:
                for day in ("day4", "day5"):
                    for camera in ("left", "right"):
                        for frame in range(11 if day == "day4" and camera == "left" else 2):
                            place = root / f"part{number // 5 + 1}" / name / f"{name}{one}" / session / day / camera
                            put(place / f"{frame:08d}.jpg", picture(number, ending="jpg"))
    return root


def weights(root: Path) -> Path:
    """SqueezeNet's file under its published name, with random weights."""
    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_0(weights=None)
    path = root / "torchvision" / "squeezenet1_0-b66bff10.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return path


TREES: dict[str, Callable[[Path], Path]] = {
    "core50": lambda root: core50_zip(root),
    "toybox": lambda root: toybox_videos(root / "toybox"),
    "ilab2mlight": lambda root: ilab_archive(root),
    "cifar100": lambda root: cifar_archive(root),
    "imagenet": lambda root: imagenet_tree(root / "imagenet"),
    "icubworldtransf": lambda root: icub_tree(root / "icubworldtransf"),
}
