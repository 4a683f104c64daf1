"""CLEAR's benchmark: a MoCo step, seeds side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def moco(folder: Path, n: int) -> dict[str, Any]:
    """A MoCo step (ResNet-18, 64 pixels, batch 32, queue 4096) beside the same arithmetic written out."""
    import torch
    from torch.nn import functional

    from cl_plugin_clear.method.moco import step
    from cl_plugin_clear.network.backbones import encoder
    from cl_plugin_clear.network.moco import MoCo

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = MoCo(encoder("resnet18", 128), encoder("resnet18", 128), queue=4096, mlp=True, temperature=0.2)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.03, momentum=0.9, weight_decay=1e-4)
    x_q, x_k = torch.randn(32, 3, 64, 64), torch.randn(32, 3, 64, 64)
    queue, zero = net.queue.clone(), torch.zeros(32, dtype=torch.long)
    pairs = list(zip(net.encoder_k.parameters(), net.encoder_q.parameters(), strict=True))

    def bare() -> None:
        q = functional.normalize(net.encoder_q(x_q), dim=1)
        with torch.no_grad():
            for k_, q_ in pairs:
                k_.mul_(0.999).add_(q_, alpha=0.001)
            k = functional.normalize(net.encoder_k(x_k), dim=1)
        loss = functional.cross_entropy(torch.cat([(q * k).sum(1, keepdim=True), q @ queue], 1) / 0.2, zero)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue[:, :32] = k.T.detach()

    return {"step": "ResNet-18, 64 px, batch 32", **_ratio(lambda: step(net, net, optimizer, x_q, x_k), bare, n)}


def grid(folder: Path, n: int) -> dict[str, Any]:
    """One bucket of the feature-level grid at CLEAR-10's size (2310 x 2048, 11 classes, batch 256): five seeds side by
    side, the same seeds one after the other, and a bare loop. CPU seconds of one thread, the least of three."""
    import torch
    from attrs import evolve

    from cl_kernel import ArraySamples, Field, Resources, Stage, Stream
    from cl_plugin_clear.evaluate.drift import train_seeds
    from cl_plugin_clear.settings import Buckets

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    spec = {
        "vector": Field(shape=(2048,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=11),
    }

    def samples(rows: int) -> ArraySamples:
        means, labels = np.random.default_rng(7).standard_normal((11, 2048)) / 30, rng.integers(0, 11, rows)
        vectors = (rng.standard_normal((rows, 2048)) + means[labels]).astype(np.float32)
        return ArraySamples(spec, {"vector": vectors, "class": labels})

    streams = [
        Stream(name="grid", task="vector -> class", test=samples(990), test_sets={"1": np.arange(990)},
               stages=[Stage(index=0, name="1", train=samples(2310))], class_names=tuple(map(str, range(11))))
        for _ in range(5)
    ]  # fmt: skip
    resources = [Resources(device="cpu", seed=seed) for seed in range(5)]
    settings = evolve(Buckets(), epochs=n, lr=0.01)

    def several(seeds: list[int]) -> list[np.ndarray]:
        chosen = [streams[seed] for seed in seeds], {"keep": "memory"}, settings, [resources[seed] for seed in seeds]
        return train_seeds(*chosen, seeds, lambda **values: None)

    def bare() -> None:
        x = torch.from_numpy(streams[0].stages[0].train.arrays["vector"])
        y = torch.from_numpy(streams[0].stages[0].train.arrays["class"])
        net = torch.nn.Linear(2048, 11)
        optimizer = torch.optim.SGD(net.parameters(), 1.0, momentum=0.9)
        for _ in range(n):
            for rows in torch.randperm(len(x)).split(256):
                loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    times: dict[str, list[float]] = {"together": [], "alone": [], "bare": []}
    accuracies: dict[str, list[float]] = {}

    def clock(way: str, body: Callable[[], Any], share: int) -> None:
        started = time.process_time()
        found = body()
        times[way].append((time.process_time() - started) / share)
        if found is not None:
            accuracies[way] = [float(R[0, 0]) for R in found]

    several([0])  # imports
    for _ in range(3):
        clock("together", lambda: several([0, 1, 2, 3, 4]), 5)
        clock("alone", lambda: [several([seed])[0] for seed in range(5)], 5)
        clock("bare", bare, 1)
    best = {f"{way}_s": min(found) for way, found in times.items()}
    return {"epochs": n, **best, "times_faster": best["alone_s"] / best["together_s"], "accuracies": accuracies,
            "whole_grid_minutes": best["together_s"] / n * 100 * 9 * 2 * 5 * 10 / 60}  # fmt: skip


def _ratio(mine: Callable[[], Any], floor: Callable[[], Any], n: int) -> dict[str, float]:
    """Medians over interleaved repetitions, so that a busy machine slows both."""
    mine()
    floor()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(n):
        for side, body in enumerate((mine, floor)):
            started = time.process_time()
            body()
            times[side].append(time.process_time() - started)
    a, b = (float(np.median(t)) for t in times)
    return {"ours_ms": 1e3 * a, "bare_ms": 1e3 * b, "ratio": a / b}
