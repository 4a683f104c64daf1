"""Benchmarks of the crumb plugin: the step beside its floor and beside the original's way, memory of assignment, and
the cost of replay against how much is stored.

    python bench/crumb.py            everything, full SqueezeNet at 224 pixels and batch 21 (minutes)
    python bench/crumb.py --quick    smaller images and fewer rounds
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel import Field, Resources
from cl_plugin_crumb import settings
from cl_plugin_crumb.method import codec
from cl_plugin_crumb.method.losses import STREAMING
from cl_plugin_crumb.method.policies import Balanced
from cl_plugin_crumb.method.steps import step_new, step_replay
from cl_plugin_crumb.network import codebook, networks

_spec = importlib.util.spec_from_file_location("_report", Path(__file__).parent / "_report.py")
assert _spec and _spec.loader
_report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_report)

BATCH, CLASSES, SEEN = 21, 10, 4
LIMITS = (
    "What limits it now: with new images, the frozen extractor's convolutions; with cached features, the head's "
    "convolutions forward and backward, twice a step, then the assignment's product."
)


CPU = torch.device("cpu")


def parts(size: int, device: torch.device = CPU) -> tuple[Any, codec.BlocksCodec, Tensor, Tensor]:
    """Network, codec, a batch of images and labels."""
    torch.manual_seed(0)
    net = networks.squeezenet(CLASSES, cut=12, size=size).to(device).train()
    shape = tuple(net.features(torch.zeros(1, 3, size, size, device=device)).shape[1:])
    fields = {
        "features": Field(shape=shape, dtype="float32", kind="map"),
        "class": Field(shape=(), dtype="int64", kind="class", n=CLASSES),
    }
    made = codec.build(settings.Blocks(sigma=14.0, sparsity=0.64), fields, Resources(device=str(device)))
    made.learning = True
    images, labels = torch.rand(BATCH, 3, size, size), torch.randint(SEEN - 2, SEEN, (BATCH,))
    return net, made, images.to(device), labels.to(device)


class Ours:
    """One streaming step of the plugin: new batch, then replay from a memory of codes."""

    def __init__(self, size: int, *, cached: bool, device: torch.device = CPU) -> None:
        self.net, self.codec, self.images, self.labels = parts(size, device)
        self.features = self.net.features(self.images) if cached else None
        trained = [*self.net.upper.parameters(), *self.codec.codebook.parameters()]
        self.optimizer = torch.optim.SGD(trained, 1e-3, 0.9, weight_decay=1e-4)
        self.slots = self.codec.allocate(417)
        self.slots["codes"].random_(0, 256)
        self.policy, rng = Balanced(417), np.random.default_rng(0)
        self.policy.begin([0, 1], 60, BATCH)
        self.policy.place(np.repeat([0, 1], 200), rng)
        self.rng = rng

    def __call__(self) -> None:
        features = self.net.features(self.images) if self.features is None else self.features
        step_new(self.net.upper, self.codec.codebook, self.optimizer, features, self.labels, SEEN, STREAMING)
        slots, labels = self.policy.balanced_draw([0, 1], BATCH, self.rng)
        maps = self.codec.decode({name: array[slots] for name, array in self.slots.items()})["features"]
        step_replay(self.net.upper, self.optimizer, maps, torch.from_numpy(labels).to(maps.device), SEEN, 5.0)


class Floor(Ours):
    """The same arithmetic and nothing else: no policy, no memory, no bookkeeping."""

    def __init__(self, size: int, *, cached: bool, device: torch.device = CPU) -> None:
        super().__init__(size, cached=cached, device=device)
        self.replayed = torch.randint(0, 256, (2 * -(-BATCH // 2), *self._grid()), device=device)
        self.old = torch.arange(len(self.replayed), device=device) % 2
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]

    def _grid(self) -> tuple[int, int, int]:
        channels, height, width = self.codec.shape
        return height, width, channels // 16

    def __call__(self) -> None:
        features = self.net.features(self.images) if self.features is None else self.features
        blocks = self.codec.codebook.blocks
        indices = codebook.assign(features, blocks.detach())
        for maps, labels, weight in ((indices, self.labels, 1.0), (self.replayed, self.old, 5.0)):
            self.optimizer.zero_grad(set_to_none=True)
            (weight * F.cross_entropy(self.net.upper(codebook.rebuild(maps, blocks))[:, :SEEN], labels)).backward()
            for p in self.trained:
                p.grad.clamp_(-10, 10)
            self.optimizer.step()


class Plain:
    """The step in the original's way, restated: maps in plain layout, both head passes,
    all B x h x w x S x K scores at once, codes as int64 one by one, gradients clamped one by one.
    """

    def __init__(self, size: int) -> None:
        self.net, self.codec, self.images, self.labels = parts(size)
        self.body = nn.Sequential(*self.net.lower).to(memory_format=torch.contiguous_format)
        self.head = self.net.upper.to(memory_format=torch.contiguous_format)
        self.blocks = self.codec.codebook.blocks
        self.trained = [*self.head.parameters(), self.blocks]
        self.optimizer = torch.optim.SGD(self.trained, 1e-3, 0.9, weight_decay=1e-4)
        self.store = {c: [torch.randint(0, 256, (self.codec.n_codes,)) for _ in range(200)] for c in (0, 1)}
        self.rng = np.random.default_rng(0)

    def rebuilt(self, features: Tensor) -> Tensor:
        batch, channels, height, width = features.shape
        grid = features.permute(0, 2, 3, 1).reshape(batch, height, width, channels // 16, 16)
        rows = self.blocks / self.blocks.norm(dim=1, keepdim=True).clamp_min(1e-12)
        scores = torch.einsum("bhwsl,kl->bhwsk", grid, rows).detach()
        return self.decoded(scores.argmax(-1))

    def decoded(self, indices: Tensor) -> Tensor:
        batch, height, width, _ = indices.shape
        return self.blocks[indices].reshape(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()

    def descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        for p in self.trained:
            p.grad = p.grad.clamp(-10, 10)
        self.optimizer.step()

    def __call__(self) -> None:
        features = self.body(self.images.requires_grad_(False))
        direct = self.head(features)
        out = self.head(self.rebuilt(features))
        self.descend(F.cross_entropy(out[:, :SEEN], self.labels) + 0 * F.cross_entropy(direct[:, :SEEN], self.labels))
        channels, height, width = self.codec.shape
        rows, labels = [], []
        for _ in range(-(-BATCH // 2)):
            for c in (0, 1):
                rows.append(self.store[c][int(self.rng.integers(len(self.store[c])))])
                labels.append(c)
        maps = self.decoded(torch.stack(rows).view(-1, height, width, channels // 16))
        self.descend(5 * F.cross_entropy(self.head(maps)[:, :SEEN], torch.tensor(labels)))


def assignment_memory() -> dict[str, int]:
    """Bytes that assigning one batch of full-size maps adds at its peak: in chunks, and with all scores at once."""
    torch.manual_seed(0)
    blocks, features = torch.rand(256, 16), torch.rand(BATCH, 512, 13, 13)
    codebook.assign(features[:1], blocks)
    return {
        "ours, in chunks": peak_added(lambda: codebook.assign(features, blocks)),
        "all scores at once": peak_added(lambda: codebook.similarity(features, blocks).argmax(-1)),
        "result and rearranged maps": BATCH * 13 * 13 * 32 * 8 + features.nbytes,
        "one chunk of scores": codebook.SCORES_AT_ONCE * 4,
    }


def peak_added(work: Callable[[], Any]) -> int:
    """Rise of the resident size while working; the kernel's high-water mark is set back before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))


def scaling(sizes: tuple[int, ...] = (10**3, 10**4, 10**5, 10**6)) -> list[dict[str, Any]]:
    """Microseconds to draw and decode a replay batch, against how much is stored (small maps: 64 codes)."""
    rows = []
    fields = {
        "features": Field(shape=(64, 2, 8), dtype="float32", kind="map"),
        "class": Field(shape=(), dtype="int64", kind="class", n=10),
    }
    for capacity in sizes:
        made = codec.build(settings.Blocks(sigma=14.0, sparsity=0.64), fields, Resources(device="cpu"))
        slots = made.allocate(capacity)
        policy, rng = Balanced(capacity), np.random.default_rng(0)
        per_class = capacity // 10
        policy.load(
            {
                "classes": np.arange(10),
                "sizes": np.full(10, per_class),
                "rows": np.arange(10 * per_class),
                "active": np.arange(10),
                "step": 1,
                "told": True,
            }
        )
        times = []
        for _ in range(200):
            began = time.perf_counter()
            drawn, _ = policy.balanced_draw(list(range(8)), BATCH, rng)
            made.decode({name: array[drawn] for name, array in slots.items()})
            times.append(time.perf_counter() - began)
        rows.append({"stored": capacity, "draw and decode (us)": round(1e6 * statistics.median(times), 1)})
    return rows


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, n = (96, 3) if options.quick else (224, options.rounds)
    assignment = assignment_memory()  # first, while no freed memory lies about that it could take
    cases: dict[str, Any] = {
        "ours": Ours(size, cached=False),
        "floor": Floor(size, cached=False),
        "plain": Plain(size),
        "ours, features cached": Ours(size, cached=True),
        "floor, features cached": Floor(size, cached=True),
    }
    seconds = _report.rounds(cases, n, clock=time.process_time)
    ratios = {
        "ours / floor": (_report.ratio(seconds, "ours", "floor"), "1.10 or less"),
        "ours / floor, features cached": (
            _report.ratio(seconds, "ours, features cached", "floor, features cached"),
            "1.10 or less",
        ),
        "plain / ours": (_report.ratio(seconds, "plain", "ours"), "2 or more"),
        "plain / ours, features cached": (_report.ratio(seconds, "plain", "ours, features cached"), "6 or more"),
    }
    content = {
        "what": f"CPU seconds of a streaming step (a new batch of {BATCH}, then its replay), SqueezeNet 1.0 at "
        f"{size} px, cut 12, K=256, L=16, {options.threads} thread, median of {n} rounds",
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": {name: value for name, (value, _) in ratios.items()},
        "assignment": assignment,
        "scaling": scaling(),
        "bytes an example": {f"L={length}": 13 * 13 * 512 // length for length in (4, 8, 16, 32)},
    }
    table = _report.table
    sections = [
        content["what"] + ".",
        table(("case", "CPU ms"), [(name, 1000 * value) for name, value in content["seconds"].items()]),
        table(("ratio", "measured", "goal"), [(name, value, goal) for name, (value, goal) in ratios.items()]),
        "*Floor*: the same products without memory, policy and bookkeeping. *Plain*: the original's step restated: "
        "maps in plain layout, both passes through the head, all scores at once, codes as int64 one by one.",
        LIMITS,
        f"Assigning one batch of {BATCH} maps 512 x 13 x 13, peak of what is added:",
        table(("assignment", "bytes"), list(content["assignment"].items())),
        "Drawing and decoding a replay batch (64 codes an example) against how much is stored:",
        table(("stored", "us"), [(r["stored"], r["draw and decode (us)"]) for r in content["scaling"]]),
    ]
    if options.quick:
        print("\n\n".join(sections))
    else:
        _report.write("crumb", "crumb", content, sections, about=_report.machine("torch", "torchvision", "numpy"))


if __name__ == "__main__":
    main()
