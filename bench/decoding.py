"""Photographs of ImageNet's size read for REMIND: ``python bench/decoding.py [--beside PYTHON] [--images N]``.

JPEGs of 500 x 375 pixels and about 60 kB are decoded, shortest side to 256, centre square of 224. (a) CPU time an image
of this build, of Pillow doing the same in one resampling, and of another build (``--beside``: its Python), by turns;
(b) images a second with one worker and with as many as cores; (c) a stream of ``--stream`` photographs through REMIND
with a small network, in this build and the other, beside the decoder alone on the same files: images a second and CPU
time an image.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RESIZE, SIDE, BYTES = 256, 224, 60_000
SMALL = {  # a network beside which decoding shows, even on a CPU
    "model.stem": 8,
    "model.widths": "[8,8,16,32]",
    "model.blocks": "[1,1,1,2]",
    "codec.codebooks": 8,
    "learner.replay_samples": 10,
    "learner.base_epochs": 1,
    "learner.base_batch": 64,
    "run.plots": "false",
}


def photograph(rng: np.random.Generator) -> Image.Image:
    """Noise of every scale: 500 x 375."""
    picture = np.zeros((375, 500, 3), np.float32)
    for width, weight in ((4, 90), (16, 60), (64, 35), (250, 22)):
        noise = rng.integers(0, 255, (max(1, width * 3 // 4), width, 3), dtype=np.uint8)
        picture += weight / 207 * np.asarray(Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def write_tree(root: Path, n: int, n_classes: int = 10, distinct: int = 500) -> float:
    """``train/c0/0.JPEG`` and so on, and a few in ``val``; ``distinct`` pictures, again and again.

    :return: mean bytes of a file.
    """
    rng = np.random.default_rng(0)
    first: list[bytes] = []
    for _ in range(min(distinct, n)):
        path = root / "one.jpg"
        photograph(rng).save(path, quality=93, subsampling=2)
        first.append(path.read_bytes())
    (root / "one.jpg").unlink()
    for side, count in (("train", n), ("val", 10 * n_classes)):
        for k in range(count):
            place = root / side / f"c{k % n_classes}" / f"{k}.JPEG"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(first[k % len(first)])
    return float(np.mean([len(content) for content in first]))


def pillow(path: Path) -> np.ndarray:
    """What the goal is stated against: decode, then crop and resize in one resampling."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    short = min(picture.size)
    edge = short * SIDE / RESIZE
    left, top = (picture.width - edge) / 2, (picture.height - edge) / 2
    window = (left, top, left + edge, top + edge)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, window))


def cpu_ms(work: Callable[[int], Any], n: int) -> float:
    """CPU milliseconds an image."""
    start = time.process_time()
    for k in range(n):
        work(k)
    return 1e3 * (time.process_time() - start) / n


def plugin_reader(root: Path) -> Callable[[int], Any]:
    """The installed plugin's reader, an image at a time."""
    from cl_plugin_remind.data.folders import ImageFiles

    files = ImageFiles.scan(root / "train", RESIZE, SIDE)
    files.paths = files.paths * 50  # more than any cache of small folders keeps
    return lambda k: files.take(np.array([k]), ["image"])


def once(root: Path, n: int) -> float:
    """CPU milliseconds an image of the plugin installed here."""
    work = plugin_reader(root)
    cpu_ms(work, 20)
    return cpu_ms(lambda k: work(20 + k), n)


def reading(root: Path, n: int, beside: str, rounds: int) -> dict[str, list[float]]:
    """(a), by turns."""
    paths = sorted((root / "train").rglob("*.JPEG"))
    found: dict[str, list[float]] = {"this build": [], "Pillow, one resampling": []}
    for _ in range(rounds):
        found["this build"].append(once(root, n))
        found["Pillow, one resampling"].append(cpu_ms(lambda k: pillow(paths[k % len(paths)]), n))
        if beside:
            words = [beside, __file__, "--once", str(root), "--images", str(n)]
            printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            found.setdefault("the other build", []).append(float(printed.split()[-1]))
    return found


def workers(root: Path, n: int) -> dict[int, float]:
    """(b): images a second through the loader."""
    return {count: decoder(root, n, count)["images_per_s"] for count in sorted({1, 2, len(os.sched_getaffinity(0))})}


def decoder(root: Path, n: int, count: int) -> dict[str, float]:
    """The decoder alone, with that many workers: ``n`` photographs, in pieces that keep their order."""
    from cl_kernel.torch.loaders import ahead
    from cl_plugin_remind.data.folders import ImageFiles

    files = ImageFiles.scan(root / "train", RESIZE, SIDE)
    files.paths = files.paths * -(-n // len(files.paths))
    pieces = [np.arange(at, min(at + 32, n)) for at in range(0, n, 32)]
    start, before = time.perf_counter(), time.process_time()
    for _ in ahead(lambda rows: files.take(rows, ["image"]), pieces, count):
        pass
    seconds, cpu = time.perf_counter() - start, time.process_time() - before
    return {"images_per_s": n / seconds, "cpu_ms": 1e3 * cpu / n}


def stream(root: Path, python: str, n: int, folder: Path, cores: int) -> dict[str, float]:
    """(c): a whole run of an installation; seconds and CPU seconds an image, start-up and base training included."""
    words = [str(Path(python).with_name("clk")), "run", "--plugin", "remind", "--test", "imagenet-custom-order"]
    words += ["--profile", "paper", "--data-root", str(root), "--no-beside", "--output", str(folder / "run")]
    words += ["--memory", "5000", "--n-workers", str(cores), "--device", "cpu"]
    more = {**SMALL, "dataset.base_classes": 1, "dataset.increment": 9}
    for key, value in more.items():
        words += ["--set", f"{key}={value}"]
    environment = {**os.environ, "CLK_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, check=False, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"images_per_s": n / seconds, "cpu_ms": 1e3 * cpu / n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", default="", metavar="PYTHON", help="Python of another build")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stream", type=int, default=0, help="photographs of (c); 0: without it")
    parser.add_argument("--once", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(once(options.once, options.images))
        return
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        root.mkdir()
        size = write_tree(root, max(options.images, options.stream))
        rows = reading(root, options.images, options.beside, options.rounds)
        content: dict[str, Any] = {"bytes": size, "cpu_ms": rows, "images_per_s": workers(root, 4 * options.images)}
        if options.stream:
            builds = {"this build": sys.executable, **({"the other build": options.beside} if options.beside else {})}
            content["n_streamed"] = options.stream
            content["stream"] = {"decoder alone": decoder(root, options.stream, cores)}
            content["stream"] |= {
                label: stream(root, python, options.stream, Path(name) / label.replace(" ", "-"), cores)
                for label, python in builds.items()
            }
    report(content)


def report(content: dict[str, Any]) -> None:
    """Print, and write ``bench/results/decoding.*``."""
    from _report import machine, table, write

    medians = {label: statistics.median(values) for label, values in content["cpu_ms"].items()}
    ours = medians["this build"]
    rows = [(label, f"{value:.2f}", f"{value / ours:.2f}") for label, value in medians.items()]
    text = [
        f"Photographs of 500 x 375 pixels, {content['bytes'] / 1e3:.0f} kB, to 224 x 224; CPU time an image:",
        table(("reader", "ms", "times this build"), rows),
        "Images a second by the number of workers:",
        table(("workers", "images/s"), [(k, f"{v:.0f}") for k, v in content["images_per_s"].items()]),
    ]
    if "stream" in content:
        text += [
            f"{content['n_streamed']:,} photographs streamed through REMIND with a small network, beside the decoder"
            " alone, in one run (one class of ten as base, 10 replayed; start-up, base training and tests included):",
            table(
                ("what", "images/s", "CPU ms an image"),
                [(k, f"{v['images_per_s']:.0f}", f"{v['cpu_ms']:.2f}") for k, v in content["stream"].items()],
            ),
        ]
    write("decoding", "Decoding photographs", content, text, about=machine("pillow", "simplejpeg", "numpy", "torch"))


if __name__ == "__main__":
    main()
