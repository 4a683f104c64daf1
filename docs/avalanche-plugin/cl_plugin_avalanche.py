"""Avalanche's benchmarks as streams: the worked example of a third-party plugin.

An experience becomes a stage, its test experience a test set. Samples stay Avalanche's own and are read row by row when
a batch is taken, so its transforms apply and nothing is copied beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from attrs import field, frozen

from cl_kernel import Asset, BadInput, Concatenation, Dataset, Field, Plugin, Stage, Stream, doc, fingerprint, hookimpl

CLASSIC = ("SplitMNIST", "PermutedMNIST", "RotatedMNIST", "SplitFMNIST", "SplitCIFAR10", "SplitCIFAR100")


@frozen(kw_only=True)
class Benchmark:
    """Settings of every benchmark."""

    n_experiences: int = field(default=5, metadata=doc("experiences, which become stages"))


@frozen(kw_only=True)
class Classic(Benchmark):
    """A benchmark of ``avalanche.benchmarks.classic``."""

    name: str = field(default="SplitMNIST", metadata=doc(f"one of {', '.join(CLASSIC)}, or another of that module"))


@hookimpl
def clk_plugin() -> Plugin:
    """Who offers."""
    return Plugin(name="avalanche", summary="Avalanche's benchmarks", paper="Lomonaco et al., CVPR workshops 2021")


@hookimpl
def clk_datasets() -> Sequence[Dataset]:
    """One embedded benchmark, and every classic one."""
    common = {"task": "image -> class", "requires": ("avalanche",)}
    data = Asset(name="avalanche", summary="raw data as Avalanche keeps them", origin="avalanche-lib downloads them")
    return [
        Dataset(
            name="digits",
            summary="nc_benchmark of scikit-learn's digits; nothing to download",
            build="cl_plugin_avalanche:build_digits",
            settings=Benchmark,
            **common,
        ),
        Dataset(
            name="classic",
            summary="a benchmark of avalanche.benchmarks.classic: classic:SplitMNIST",
            build="cl_plugin_avalanche:build_classic",
            settings=Classic,
            argument="name",
            assets=(data,),
            **common,
        ),
    ]


def build_digits(settings: Benchmark, resources: Any) -> Stream:
    """Real images without a download, through Avalanche's own generator."""
    import torch
    from avalanche.benchmarks import nc_benchmark
    from avalanche.benchmarks.utils import as_classification_dataset
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy((data.images[:, None] / 16).astype(np.float32))
    held = np.arange(len(images)) % 4 == 0

    def side(rows: np.ndarray) -> Any:
        tensors = torch.utils.data.TensorDataset(images[rows], torch.from_numpy(data.target[rows].astype(np.int64)))
        tensors.targets = data.target[rows].tolist()
        return as_classification_dataset(tensors)

    if 10 % settings.n_experiences:
        raise BadInput(
            f"10 classes do not divide into {settings.n_experiences} experiences; Avalanche would drop the rest",
            where="dataset.n_experiences",
        )
    benchmark = nc_benchmark(
        side(~held),
        side(held),
        n_experiences=settings.n_experiences,
        task_labels=False,
        fixed_class_order=list(range(10)),
    )
    return stream_of("avalanche:digits", benchmark)


def build_classic(settings: Classic, resources: Any) -> Stream:
    """Any benchmark of the module, by its name."""
    from avalanche.benchmarks import classic

    maker = getattr(classic, settings.name, None)
    if maker is None:
        raise BadInput(f"avalanche.benchmarks.classic has no {settings.name!r}", where="--dataset avalanche:classic")
    (root,) = resources.roots[:1] or (None,)
    benchmark = maker(
        n_experiences=settings.n_experiences, return_task_id=False, seed=resources.seed, dataset_root=root
    )
    return stream_of(f"avalanche:{settings.name}", benchmark)


def stream_of(name: str, benchmark: Any) -> Stream:
    """A benchmark with a train and a test stream of equal length, as a stream."""
    train, test = list(benchmark.train_stream), list(benchmark.test_stream)
    if len(train) != len(test):
        raise BadInput(f"{len(train)} training and {len(test)} test experiences", where=name)
    n_classes = 1 + max(int(c) for experience in train for c in experience.classes_in_this_experience)
    stages = [
        Stage(
            index=k,
            name=f"experience {k}",
            train=Experience(experience.dataset, n_classes),
            classes=tuple(sorted(int(c) for c in experience.classes_in_this_experience)),
        )
        for k, experience in enumerate(train)
    ]
    tests = [Experience(experience.dataset, n_classes) for experience in test]
    ends = np.cumsum([0, *(len(one) for one in tests)])
    return Stream(
        name=name,
        task="image -> class",
        stages=stages,
        test=Concatenation(tests),
        test_sets={stage.name: np.arange(ends[k], ends[k + 1]) for k, stage in enumerate(stages)},
        class_names=tuple(str(c) for c in range(n_classes)),
        fingerprint=fingerprint(name, *(one.labels for one in tests), tests[0].take(np.arange(1))["image"]),
    )


class Experience:
    """Samples of an Avalanche data set; images channels last, as everywhere in clk."""

    def __init__(self, dataset: Any, n_classes: int) -> None:
        self.dataset, self.n_classes = dataset, n_classes

    @cached_property
    def labels(self) -> np.ndarray:
        """Classes, int64 [N], without touching an image."""
        return np.array([int(label) for label in self.dataset.targets], np.int64)

    @cached_property
    def spec(self) -> Mapping[str, Field]:
        """``image`` as Avalanche's transforms leave it, and ``class``."""
        image = self._image(0)
        return {
            "image": Field(shape=image.shape, dtype=str(image.dtype), kind="image"),
            "class": Field(shape=(), dtype="int64", kind="class", n=self.n_classes),
        }

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows, as numpy arrays."""
        taken = {"class": self.labels[rows]} if not fields or "class" in fields else {}
        if not fields or "image" in fields:
            taken["image"] = np.stack([self._image(int(row)) for row in rows])
        return taken

    def _image(self, row: int) -> np.ndarray:
        return np.moveaxis(np.asarray(self.dataset[row][0]), 0, -1)
