"""``digits-er`` on Avalanche, run by ``peers.py`` with the interpreter of Avalanche's own environment.

Answers each line on stdin with one JSON line: CPU seconds of one round of every case, one thread.
"""

from __future__ import annotations

import io
import json
import sys
import time
import warnings
from importlib import metadata

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from avalanche.benchmarks import nc_benchmark  # noqa: E402
from avalanche.benchmarks.utils import as_classification_dataset  # noqa: E402
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics  # noqa: E402
from avalanche.logging import TextLogger  # noqa: E402
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin  # noqa: E402
from avalanche.training.supervised import Naive  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

BATCH, REPLAYED, CAPACITY, LR, REPEATS = 32, 32, 200, 0.1, 4


class Rows(torch.utils.data.TensorDataset):
    """Tensors with the attribute ``targets`` that Avalanche reads."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__(images, labels)
        self.targets = labels.tolist()


def benchmark() -> object:
    """The digits of the kernel's data set, training rows four times, five experiences of two classes."""
    data = load_digits()
    images = torch.from_numpy((data.images[:, None] / 16).astype(np.float32))
    labels = torch.from_numpy(data.target.astype(np.int64))
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        rows = np.random.default_rng(digit).permutation(np.flatnonzero(data.target == digit))
        test[rows[: max(1, round(0.25 * len(rows)))]] = True
    train = np.tile(np.flatnonzero(~test), REPEATS)
    sides = (Rows(images[train], labels[train]), Rows(images[test], labels[test]))
    return nc_benchmark(
        *(as_classification_dataset(side) for side in sides),
        n_experiences=5,
        task_labels=False,
        fixed_class_order=list(range(10)),
    )


def network() -> nn.Module:
    """MLP 64-128-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


class Recorder:
    """Keeps the batches that a strategy trains on."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def before_forward(self, strategy: object, *_: object, **__: object) -> None:
        """Avalanche calls this before each training step."""
        self.batches.append((strategy.mb_x.clone(), strategy.mb_y.clone()))


def strategy_of(full: bool, extra: tuple[object, ...] = ()) -> Naive:
    """Experience replay; ``full``: accuracy, loss, forgetting and a text log."""
    net = network()
    metrics = (
        (
            accuracy_metrics(experience=True, stream=True),
            loss_metrics(experience=True, stream=True),
            forgetting_metrics(experience=True, stream=True),
        )
        if full
        else ()
    )
    return Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), LR),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=1,
        eval_mb_size=256,
        plugins=[ReplayPlugin(mem_size=CAPACITY, batch_size_mem=REPLAYED), *extra],
        evaluator=EvaluationPlugin(*metrics, loggers=[TextLogger(io.StringIO())] if full else []),
    )


def run(stream: object, full: bool) -> float:
    """All experiences; with ``full`` every test set is scored after each."""
    strategy = strategy_of(full)
    began = time.process_time()
    for experience in stream.train_stream:
        strategy.train(experience, num_workers=0)
        if full:
            strategy.eval(stream.test_stream, num_workers=0)
    return time.process_time() - began


def floor(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Forward, backward and step on exactly the batches Avalanche consumed."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), LR)
    began = time.process_time()
    for inputs, targets in batches:
        loss = functional.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - began


def main() -> None:
    """Serve rounds until stdin ends."""
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    stream, recorder = benchmark(), Recorder()
    strategy = strategy_of(False, (recorder,))
    for experience in stream.train_stream:
        strategy.train(experience, num_workers=0)
    versions = {name: metadata.version(name) for name in ("avalanche-lib", "torch")}
    print(json.dumps({"steps": len(recorder.batches), "versions": versions}), file=answers, flush=True)
    for _ in sys.stdin:
        seconds = {
            "floor": floor(recorder.batches),
            "avalanche, no metrics": run(stream, False),
            "avalanche": run(stream, True),
        }
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()
