"""The streaming step of REMIND: ``python bench/remind.py [--device cuda]``.

(a) a step beside the bare forward, backward and optimiser step of the plastic layers on the same batch, in the faster
memory layout; (b) the same from 10^3 to 10^6 stored examples; (c) beside a plain re-statement of the original's data
path with a full buffer of 959,665: a dictionary of items, a crop and an interpolation for each tensor, the quantiser
decoding on the CPU, removal from a list; (d) hours for the ImageNet stream from the measured steps.

Sizes are the paper's: features 512 x 7 x 7, 32 codebooks of 256, 50 replayed (100 drawn and mixed in pairs), crops on,
1000 classes; ``--channels 64`` gives a small network, where what surrounds the arithmetic shows.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _report import machine, table, write
from torch.nn import functional

from cl_kernel import Field, Memory
from cl_kernel.library.memories import policies
from cl_kernel.library.settings import LargestClass as LargestClassSettings
from cl_plugin_remind.method import augment
from cl_plugin_remind.method.codec import PqCodec
from cl_plugin_remind.method.step import FEATURES, ITEM, LABEL, Streamer, make_optimizer, make_rates
from cl_plugin_remind.network.resnet import ResNet, split
from cl_plugin_remind.settings import Streaming

SIDE, CLASSES, STREAM = 7, 1000, 1_281_167 - 129_000


class Setting:
    """Upper part, quantiser and a filled memory."""

    def __init__(self, channels: int, codebooks: int, stored: int, device: torch.device, *, full: bool) -> None:
        rng = np.random.default_rng(0)
        self.device, self.channels, self.codebooks, self.rng = device, channels, codebooks, rng
        network = ResNet(CLASSES, widths=(8, 8, 8, channels), stem=8)
        self.upper = split(network, "layer4.1").upper.to(device).to(memory_format=torch.channels_last).train()
        fields = {
            FEATURES: Field(shape=(channels, SIDE, SIDE), dtype="float32", kind="map"),
            LABEL: Field(shape=(), dtype="int64", kind="class"),
            ITEM: Field(shape=(), dtype="int64", kind="group"),
        }
        self.codec = PqCodec(fields, codebooks, 256, 1, device)
        self.codec.use(FEATURES, rng.random((codebooks, 256, channels // codebooks), np.float32))
        capacity = stored if full else stored + 4000
        policy = policies.build_largest_class(LargestClassSettings(), capacity)
        self.memory = Memory(policy, self.codec, capacity, rng)
        for at in range(0, stored, 50_000):
            n = min(50_000, stored - at)
            labels = rng.integers(0, CLASSES, n)
            codes = torch.from_numpy(rng.integers(0, 256, (n, SIDE, SIDE, codebooks), np.uint8)).to(device)
            self.memory.add({FEATURES: codes, LABEL: labels, ITEM: np.arange(at, at + n)}, labels)
        self.settings = Streaming()
        self.streamer = Streamer(
            self.settings,
            self.upper,
            make_optimizer(self.upper, self.settings),
            make_rates(self.settings),
            self.memory,
            augment.Drawn(rng),
            device,
        )
        self.codes = torch.from_numpy(rng.integers(0, 256, (1, SIDE, SIDE, codebooks), np.uint8)).to(device)
        self.new = self.codec.quantisers[FEATURES].decode_maps(self.codes)
        self.item = stored

    def ours(self) -> None:
        """One step of the plugin, storing and evicting included."""
        label = int(self.rng.integers(CLASSES))
        self.streamer.step(self.new, label)
        self.streamer.keep(self.codes, label, self.item)
        self.item += 1

    def floor(self, layout: torch.memory_format) -> Callable[[], None]:
        """Forward, backward and optimiser step on a batch of the same shape, nothing else."""
        upper = copy.deepcopy(self.upper).to(memory_format=layout)
        optimizer = make_optimizer(upper, self.settings)
        batch = torch.randn(1 + self.settings.replay_samples, self.channels, SIDE, SIDE, device=self.device)
        batch = batch.relu().contiguous(memory_format=layout)
        labels = torch.randint(0, CLASSES, (len(batch),), device=self.device)

        def step() -> None:
            scores = upper(batch)
            one = functional.cross_entropy(scores, labels, reduction="none")
            other = functional.cross_entropy(scores, labels, reduction="none")
            loss = (0.9 * one + 0.1 * other).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step


class Plain:
    """The original's data path, restated: what it keeps where, and what it does one by one."""

    def __init__(self, like: Setting, stored: int) -> None:
        self.like, self.upper = like, like.upper
        self.optimizer = make_optimizer(self.upper, like.settings)
        rng = np.random.default_rng(1)
        self.centroids = like.codec.quantisers[FEATURES].centroids.cpu().numpy()
        block = rng.integers(0, 256, (4096, SIDE, SIDE, like.codebooks), np.uint8)
        labels = rng.integers(0, CLASSES, stored).tolist()
        # the dictionary has an entry for every item; the arrays behind it repeat, to fit this machine
        self.latent = {item: (block[item % 4096], labels[item]) for item in range(stored)}
        self.eligible = list(range(stored))
        self.by_class: dict[int, list[int]] = {}
        for item, label in enumerate(labels):
            self.by_class.setdefault(label, []).append(item)
        self.item, self.python, self.old = stored, random.Random(0), np.random.RandomState(0)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        flat = codes.reshape(-1, codes.shape[-1])
        return self.centroids[np.arange(flat.shape[1]), flat].reshape(*codes.shape[:-1], -1)

    def step(self) -> None:
        """One step with a full buffer."""
        settings, device = self.like.settings, self.like.device
        label = self.python.randrange(CLASSES)
        drawn = augment.distinct(self.old, len(self.eligible), 2 * settings.replay_samples)
        codes = np.empty((1 + len(drawn), SIDE, SIDE, self.like.codebooks), np.uint8)
        labels = torch.empty(1 + len(drawn), dtype=torch.long)
        codes[0], labels[0] = self.like.codes[0].cpu().numpy(), label
        for row, position in enumerate(drawn.tolist(), 1):
            codes[row], labels[row] = self.latent[self.eligible[position]]
        maps = torch.from_numpy(self.decode(codes).transpose(0, 3, 1, 2).copy()).to(device)
        labels = labels.to(device)
        for row in range(len(maps)):
            top, left, height, width = augment.crop_window(self.python, SIDE, SIDE)
            part = maps[row : row + 1, :, top : top + height, left : left + width]
            maps[row] = functional.interpolate(part, (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
        share, r = float(self.old.beta(0.1, 0.1)), settings.replay_samples
        inputs = torch.cat([maps[:1], share * maps[1 : 1 + r] + (1 - share) * maps[1 + r :]])
        one, other = torch.cat([labels[:1], labels[1 : 1 + r]]), torch.cat([labels[:1], labels[1 + r :]])
        scores = self.upper(inputs)
        loss = (
            share * functional.cross_entropy(scores, one, reduction="none")
            + (1 - share) * functional.cross_entropy(scores, other, reduction="none")
        ).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.latent[self.item] = (codes[0], label)
        self.eligible.append(self.item)
        self.by_class[label].append(self.item)
        largest = max(self.by_class, key=lambda c: len(self.by_class[c]))
        victim = self.python.choice(self.by_class[largest])
        self.eligible.remove(victim)
        self.by_class[largest].remove(victim)
        del self.latent[victim]
        self.item += 1


def compare(cases: dict[str, Callable[[], None]], n: int, inner: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds a step of each case, the cases alternating; CPU time on the CPU, wall time on a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(n + 1):
        for name, case in cases.items():
            began = clock()
            for _ in range(inner):
                case()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                seconds[name].append((clock() - began) / inner)
    return seconds


def median_ratio(seconds: dict[str, list[float]], a: str, b: str) -> float:
    return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stored", type=int, default=959_665, help="size of the full buffer in (c)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--scaling-channels", type=int, default=64, help="width of the network in (b), small to show the rest"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    results: dict[str, Any] = {}
    inner = 2 if device.type == "cpu" else 50

    rows_a = []
    for channels, codebooks in ((512, 32), (64, 16)):
        here = Setting(channels, codebooks, 20_000, device, full=False)
        cases = {
            "step": here.ours,
            "floor, channels last": here.floor(torch.channels_last),
            "floor, contiguous": here.floor(torch.contiguous_format),
        }
        seconds = compare(cases, options.rounds, inner if channels == 512 else 10 * inner, device)
        faster = min(
            (name for name in cases if name.startswith("floor")), key=lambda name: statistics.median(seconds[name])
        )
        over = median_ratio(seconds, "step", faster)
        results[f"step_{channels}"] = {
            "ms": {k: 1e3 * statistics.median(v) for k, v in seconds.items()},
            "over_floor": over,
        }
        rows_a.append(
            (
                f"{channels} channels",
                1e3 * statistics.median(seconds["step"]),
                1e3 * statistics.median(seconds[faster]),
                faster.removeprefix("floor, "),
                over,
            )
        )

    rows_b = []
    for stored in options.sizes:
        here = Setting(options.scaling_channels, 16, stored, device, full=True)
        seconds = compare({"step": here.ours}, options.rounds, 5 * inner, device)
        rows_b.append((stored, 1e3 * statistics.median(seconds["step"]), int(here.memory.nbytes // len(here.memory))))
        results[f"stored_{stored}"] = 1e3 * statistics.median(seconds["step"])
        del here

    rows_c = []
    for channels, codebooks in ((512, 32), (64, 16)):
        here = Setting(channels, codebooks, options.stored, device, full=True)
        plain = Plain(here, options.stored)
        seconds = compare({"step": here.ours, "plain": plain.step}, options.rounds, inner, device)
        gain = median_ratio(seconds, "plain", "step")
        results[f"plain_{channels}"] = {"ms": {k: 1e3 * statistics.median(v) for k, v in seconds.items()}, "gain": gain}
        rows_c.append(
            (
                f"{channels} channels",
                1e3 * statistics.median(seconds["step"]),
                1e3 * statistics.median(seconds["plain"]),
                gain,
            )
        )
        del here, plain

    hours = STREAM * results["step_512"]["ms"]["step"] / 3.6e6
    results["imagenet_hours"] = hours
    kind = "CPU time of one thread" if device.type == "cpu" else "wall time"
    write(
        "remind" if device.type == "cpu" else "remind-gpu",
        "The streaming step of REMIND",
        results,
        [
            f"New and 50 replayed examples, crops and mixup on; {kind}; median of the ratios of each round.",
            "(a) beside the bare arithmetic of the plastic layers (goal: 1.05 on the CPU at full width, 1.3 on a GPU)",
            table(("network", "step ms", "floor ms", "faster layout", "times floor"), rows_a),
            f"(b) by the number of stored examples, memory full, {options.scaling_channels} channels (goal: flat)",
            table(("stored", "step ms", "bytes an example"), rows_b),
            f"(c) beside the original's data path restated, {options.stored:,} items (goal: never slower on the CPU)",
            table(("network", "step ms", "restated ms", "times faster"), rows_c),
            f"(d) the ImageNet stream of {STREAM:,} steps at that pace: {hours:,.1f} hours.",
            "What limits it now: the two 3x3 convolutions forward and backward; decoding, crops and mixup of 101 maps "
            "are a few batched products, and the memory's share does not grow with what it holds. "
            + ("Not measured on a GPU yet." if device.type == "cpu" else ""),
        ],
        about=machine("torch", "numpy"),
    )


if __name__ == "__main__":
    main()
