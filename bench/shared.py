"""Eight methods on three seeds above one frozen network: ``python bench/shared.py --pictures FOLDER``.

CPU time, so that a busy machine counts less. The floor is one decoding and one extraction of every picture, plus the
same methods on the features given as vectors: what the heads' arithmetic and a run's own bookkeeping take. The sweep
reads pictures and shares features through the cache, which is empty at first. Starts of processes are aside: all runs
share one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import table, write

from cl_kernel.library.datasets.folders import fit
from cl_kernel.library.pictures import is_picture, open_picture
from cl_kernel.registry import Registry, discover
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import run_plan

METHODS = ("fine-tuning", "er", "er-ace", "der", "icarl", "ncm", "slda", "joint")
SEEDS = (0, 1, 2)
SIDE, CUT = 96, "_flatten"


@contextmanager
def timed(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the CPU seconds of the block."""
    start = time.process_time()
    yield
    spent[name] = spent.get(name, 0.0) + time.process_time() - start


def run(registry: Registry, method: str, seed: int, settings: Mapping[str, Any], **pieces: str) -> float:
    """Accuracy of one run."""
    remembers = "memory" in registry.find("learner", f"clk:{method}")[0].record.accepts
    memory = {"memory": "100"} if remembers else {}
    asked = {"run.plots": False, "dataset.n_stages": 5, **settings}
    request = make_request(learner=f"clk:{method}", seed=seed, device="cpu", settings=asked, **memory, **pieces)
    with tempfile.TemporaryDirectory() as place:
        results = run_plan(registry, plan(registry, request), Path(place) / "run").results
    accuracy: float = results["metrics"]["accuracy"]["seen"][-1]["accuracy"]
    return accuracy


def side(root: Path, limit: int) -> tuple[list[Path], np.ndarray]:
    """The first pictures of each class."""
    files, labels = [], []
    for label, folder in enumerate(sorted(path for path in root.iterdir() if path.is_dir())):
        found = sorted(path for path in folder.glob("**/*") if is_picture(path))[:limit]
        files += found
        labels += [label] * len(found)
    return files, np.array(labels)


def lower_part() -> torch.nn.Module:
    """EfficientNet-Lite0 up to its pooled features, its preprocessing in front."""
    from cl_kernel import Field, Resources
    from cl_kernel.library.backbones.build import build_efficientnet_lite0
    from cl_kernel.library.backbones.settings import Backbone

    fields = {
        "image": Field(shape=(SIDE, SIDE, 3), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=10),
    }
    lower: torch.nn.Module = build_efficientnet_lite0(Backbone(cut=CUT), fields, 10, Resources()).lower
    return lower


def floor(registry: Registry, root: Path, limit: int, spent: dict[str, float]) -> dict[str, list[float]]:
    """Decode and extract once, then every method on the vectors."""
    lower = lower_part()
    features, labels = [], []
    for name in ("train", "val"):
        files, classes = side(root / name, limit)
        with timed(spent, "decoding"):
            images = np.stack([fit(open_picture(file), SIDE) for file in files])
        with timed(spent, "extraction"), torch.no_grad():
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
            features.append(torch.cat([lower(part.float().div(255)).flatten(1) for part in pixels.split(64)]).numpy())
        labels.append(classes)
    split = np.repeat([0, 1], [len(part) for part in labels])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npz"
        np.savez(file, x=np.concatenate(features), y=np.concatenate(labels), split=split)
        with timed(spent, "heads on vectors"):
            # A perceptron without hidden layers is the same head.
            settings = {"model.hidden": ()}
            return {
                method: [
                    run(registry, method, seed, settings, dataset=f"vectors:{file}", model="mlp") for seed in SEEDS
                ]
                for method in METHODS
            }


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, metavar="FOLDER", help="train/<class>, val/<class>")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="pictures of a class and side")
    namespace = parser.parse_args()
    torch.set_num_threads(1)
    registry, spent, swept = discover(), {}, {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CLK_CACHE"] = cache
        run(registry, "fine-tuning", 0, {}, dataset="digits", model="mlp")  # imports are no part of either
        bare = floor(registry, namespace.pictures, namespace.limit, spent)
        settings = {"dataset.size": SIDE, "dataset.limit": namespace.limit, "model.cut": CUT}
        found = {
            method: [_swept(registry, method, seed, settings, namespace.pictures, swept) for seed in SEEDS]
            for method in METHODS
        }
    total, least = sum(swept.values()), sum(spent.values())
    rows = [(name, f"{seconds:.1f}") for name, seconds in spent.items()]
    rows += [("floor", f"{least:.1f}"), ("sweep over pictures", f"{total:.1f}"), ("ratio", f"{total / least:.2f}")]
    scores = [
        (method, f"{100 * np.mean(found[method]):.1f}", f"{100 * np.mean(bare[method]):.1f}", f"{swept[method]:.1f}")
        for method in METHODS
    ]
    note = (
        f"{len(METHODS)} methods x {len(SEEDS)} seeds, {namespace.limit} pictures a class and side at {SIDE} pixels, "
        "EfficientNet-Lite0 frozen to its pooled features, one thread, all runs in one process. The goal is a ratio of "
        "at most 1.5."
    )
    tables = [
        table(("CPU seconds", ""), rows),
        table(("method", "pictures, %", "vectors, %", "CPU s of three runs"), scores),
    ]
    write(
        "shared",
        "Features shared by a sweep",
        {"floor": spent, "sweep": swept, "ratio": total / least},
        [*tables, note],
    )


def _swept(
    registry: Registry, method: str, seed: int, settings: Mapping[str, Any], root: Path, swept: dict[str, float]
) -> float:
    with timed(swept, method):
        return run(registry, method, seed, settings, dataset=f"folder:{root}", model="efficientnet-lite0")


if __name__ == "__main__":
    main()
