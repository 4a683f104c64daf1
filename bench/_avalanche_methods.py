"""Twelve methods on Avalanche, run by ``methods.py`` with the interpreter of Avalanche's own environment.

``_avalanche_methods.py FOLDER OUTPUT``: FOLDER holds ``seed-N.npz`` with the stream, the order and the first weights of
each seed; OUTPUT receives one JSON line a run.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from avalanche.benchmarks import nc_benchmark  # noqa: E402
from avalanche.benchmarks.utils import as_classification_dataset  # noqa: E402
from avalanche.evaluation.metrics import accuracy_metrics  # noqa: E402
from avalanche.training.plugins import (  # noqa: E402
    AGEMPlugin,
    EvaluationPlugin,
    EWCPlugin,
    GDumbPlugin,
    GEMPlugin,
    GSS_greedyPlugin,
    LwFPlugin,
    MASPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.supervised import DER, ICaRL, Naive  # noqa: E402
from torch import nn  # noqa: E402

BATCH, EPOCHS, CAPACITY, LR, N_STAGES = 32, 5, 200, 0.1, 5


class Rows(torch.utils.data.TensorDataset):
    """Tensors with the attribute ``targets`` that Avalanche reads."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__(images, labels)
        self.targets = labels.tolist()


def network(weights: dict[str, np.ndarray]) -> nn.Sequential:
    """MLP 64-128-10 with these weights."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    with torch.no_grad():
        for parameter, name in zip(net.parameters(), ("w1", "b1", "w2", "b2"), strict=True):
            parameter.copy_(torch.from_numpy(weights[name]))
    return net


PLUGINS: dict[str, Any] = {
    "naive": list,
    "er": lambda: [ReplayPlugin(mem_size=CAPACITY, batch_size_mem=BATCH)],
    "ewc": lambda: [EWCPlugin(ewc_lambda=50.0)],
    "si": lambda: [SynapticIntelligencePlugin(si_lambda=1.0)],
    "mas": lambda: [MASPlugin(lambda_reg=0.1, alpha=0.5)],
    "lwf": lambda: [LwFPlugin(alpha=1.0, temperature=2.0)],
    "gem": lambda: [GEMPlugin(patterns_per_experience=CAPACITY // N_STAGES, memory_strength=0.5)],
    "agem": lambda: [AGEMPlugin(patterns_per_experience=CAPACITY // N_STAGES, sample_size=BATCH)],
    "gss": lambda: [GSS_greedyPlugin(mem_size=CAPACITY, mem_strength=5, input_size=[1, 8, 8])],
    "gdumb": lambda: [GDumbPlugin(mem_size=CAPACITY)],
}


def strategy_of(method: str, net: nn.Sequential, evaluator: EvaluationPlugin) -> Any:
    """A strategy of Avalanche with the common steps."""
    common = {
        "optimizer": torch.optim.SGD(net.parameters(), LR),
        "train_mb_size": BATCH,
        "train_epochs": EPOCHS,
        "eval_mb_size": 256,
        "evaluator": evaluator,
    }
    if method == "icarl":
        return ICaRL(
            feature_extractor=net[:3],
            classifier=net[3],
            memory_size=CAPACITY,
            buffer_transform=None,
            fixed_memory=True,
            **common,
        )
    if method == "der":
        return DER(model=net, mem_size=CAPACITY, batch_size_mem=BATCH, alpha=0.5, beta=0.0, **common)
    return Naive(model=net, criterion=nn.CrossEntropyLoss(), plugins=PLUGINS[method](), **common)


def run(method: str, stored: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """All stages; share of right answers on every test image after the last."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    sides = [
        Rows(torch.from_numpy(stored[f"x_{side}"]), torch.from_numpy(stored[f"y_{side}"])) for side in ("train", "test")
    ]
    stream = nc_benchmark(
        *(as_classification_dataset(side) for side in sides),
        n_experiences=N_STAGES,
        task_labels=False,
        fixed_class_order=stored["order"].tolist(),
    )
    evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
    strategy = strategy_of(method, network(stored), evaluator)
    steps, began = 0, time.perf_counter()
    for experience in stream.train_stream:
        strategy.train(experience, num_workers=0)
        steps = strategy.clock.train_iterations
    found = strategy.eval(stream.test_stream, num_workers=0)
    accuracy = next(value for name, value in found.items() if name.startswith("Top1_Acc_Stream"))
    return {
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "steps": steps,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Every method on every seed."""
    torch.set_num_threads(1)
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    methods = sys.argv[3].split(",")
    versions = {name: metadata.version(name) for name in ("avalanche-lib", "torch", "numpy")}
    with output.open("a") as out:
        out.write(json.dumps({"versions": versions}) + "\n")
        for method in methods:
            for path in sorted(folder.glob("seed-*.npz")):
                with np.load(path) as stored:
                    result = run(method, dict(stored), int(path.stem.partition("-")[2]))
                out.write(json.dumps(result) + "\n")
                out.flush()


if __name__ == "__main__":
    main()
