"""The training steps on a GPU beside their arithmetic, captured: ``python bench/gpu.py [--device cpu --quick]``.

Four steps: REMIND's streaming step, CRUMB's step with cached features, BU-TD's training step, CLEAR's MoCo step. The
floor of each is the same arithmetic on a fixed batch and nothing else, recorded as a CUDA graph (run as it is on the
CPU). For REMIND also the restated original's data path, and the hours that the ImageNet stream takes with everything
that belongs to it: decoding of JPEGs, the frozen network, quantising, the step, ten evaluations, a checkpoint a minute.

Results: ``gpu.json`` and ``gpu.md`` in ``--output`` (default ``bench/results``).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _report
import numpy as np
import torch
from attrs import evolve, frozen
from PIL import Image
from torch.nn import functional

STREAM, FULL, EVALUATIONS, TEST_IMAGES = 1_281_167 - 129_000, 959_665, 10, 50_000
CHECKPOINT_EVERY_S = 60

Work = Callable[[], Any]


@frozen
class Size:
    """How much of each case: full, or shortened so that it can be tried anywhere."""

    rounds: int
    steps: int
    stored: int
    images: int
    n_workers: int
    emnist_batch: int
    moco_batch: int
    moco_side: int
    crumb_side: int
    width: int


FULL_SIZE = Size(5, 100, FULL, 3000, 16, 64, 256, 224, 224, 512)
QUICK = Size(2, 2, 2000, 60, 2, 4, 8, 64, 64, 64)


def captured(work: Work, device: torch.device) -> Work:
    """The work as one launch: warmed up on a side stream, then recorded; on the CPU the work itself."""
    if device.type != "cuda":
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    kept = [graph, work]  # a recording does not keep what it reads: weights and batches must outlive it
    return lambda: kept[0].replay()


def timed(cases: dict[str, Work], size: Size, device: torch.device) -> dict[str, list[float]]:
    """Seconds a step of each case in each round, the cases alternating; the first round is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(size.rounds + 1):
        for name, case in cases.items():
            wait(device)
            began = time.perf_counter()
            for _ in range(size.steps):
                case()
            wait(device)
            if number:
                found[name].append((time.perf_counter() - began) / size.steps)
    return found


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def row(found: dict[str, list[float]]) -> dict[str, float]:
    """Medians in milliseconds and the ratios to the floor."""
    out = {f"{name}_ms": 1e3 * statistics.median(values) for name, values in found.items()}
    out["times_floor"] = _report.ratio(found, "step", "floor")
    return out | ({"times_faster": _report.ratio(found, "restated", "step")} if "restated" in found else {})


# ---- the steps --------------------------------------------------------------------------------


def remind(size: Size, device: torch.device) -> dict[str, float]:
    """51 maps of 512 x 7 x 7, crops and mixup on, storing and evicting included; a full memory."""
    import remind as bench

    here = bench.Setting(size.width, size.width // 16, size.stored, device, full=True)
    layouts = [torch.channels_last, torch.contiguous_format]
    floors = {layout: captured(here.floor(layout), device) for layout in layouts}
    trial = timed({str(layout): floor for layout, floor in floors.items()}, size, device)
    faster = min(layouts, key=lambda layout: statistics.median(trial[str(layout)]))
    plain = bench.Plain(here, size.stored)
    return row(timed({"step": here.ours, "floor": floors[faster], "restated": plain.step}, size, device))


def crumb(size: Size, device: torch.device) -> dict[str, float]:
    """21 cached feature maps of SqueezeNet, then 22 replayed ones decoded from block indices."""
    import crumb as bench

    ours, floor = (make(size.crumb_side, cached=True, device=device) for make in (bench.Ours, bench.Floor))
    return row(timed({"step": ours, "floor": captured(floor, device)}, size, device))


def butd(size: Size, device: torch.device) -> dict[str, float]:
    """The counter-stream network at EMNIST shape, 112 x 224, instruction and occurrence losses, Adam."""
    import butd as bench

    from cl_plugin_butd.method.losses import instruction_loss
    from cl_plugin_butd.network.counter_stream import CounterStream
    from cl_plugin_butd.network.streams import Topology

    n = size.emnist_batch
    flag = torch.zeros(n, 49, device=device).scatter_(1, torch.arange(n, device=device)[:, None] % 49, 1.0)
    labels, existence = torch.arange(n, device=device)[:, None] % 47, torch.zeros(n, 47, device=device)
    image = (torch.rand(n, 3, 112, 224, device=device) * 255).contiguous(memory_format=torch.channels_last)

    def stepper(*, capturable: bool) -> Work:
        torch.manual_seed(0)
        net = CounterStream(Topology(**bench.EMNIST)).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=2e-4, capturable=capturable)

        def step() -> None:
            loss = instruction_loss(net(image, flag), labels, existence).total
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step

    floor = captured(stepper(capturable=device.type == "cuda"), device)
    cases = {"step": stepper(capturable=False), "floor": floor}
    return row(timed(cases, evolve(size, steps=max(2, size.steps // 4)), device))


def moco(size: Size, device: torch.device) -> dict[str, float]:
    """ResNet-50 pair, queue of 65,536."""
    from cl_plugin_clear.method.moco import step
    from cl_plugin_clear.network.backbones import encoder
    from cl_plugin_clear.network.moco import MoCo

    n, side = size.moco_batch, size.moco_side
    arch, queue = ("resnet50", 65_536) if n >= 64 else ("resnet18", 1024)

    def make() -> tuple[Any, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = MoCo(encoder(arch, 128), encoder(arch, 128), queue=queue, mlp=True, temperature=0.2)
        net = net.to(device, memory_format=torch.channels_last)
        trained = [p for p in net.parameters() if p.requires_grad]
        return net, torch.optim.SGD(trained, 0.03, momentum=0.9, weight_decay=1e-4)

    views = [
        torch.randn(n, 3, side, side, device=device).contiguous(memory_format=torch.channels_last) for _ in range(2)
    ]
    net, optimizer = make()
    bare_net, bare_optimizer = make()
    negatives, zero = bare_net.queue.clone(), torch.zeros(n, dtype=torch.long, device=device)
    query = [p.detach() for p in bare_net.encoder_q.parameters()]
    key = [p.detach() for p in bare_net.encoder_k.parameters()]

    def bare() -> None:
        q = functional.normalize(bare_net.encoder_q(views[0]), dim=1)
        with torch.no_grad():
            torch._foreach_mul_(key, 0.999)
            torch._foreach_add_(key, query, alpha=0.001)
            k = functional.normalize(bare_net.encoder_k(views[1]), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ negatives], 1) / 0.2
        bare_optimizer.zero_grad()
        functional.cross_entropy(logits, zero).backward()
        bare_optimizer.step()
        negatives[:, :n] = k.T

    cases = {"step": lambda: step(net, net, optimizer, *views), "floor": captured(bare, device)}
    return row(timed(cases, evolve(size, steps=max(2, size.steps // 10)), device))


# ---- the ImageNet stream ----------------------------------------------------------------------


def imagenet(size: Size, device: torch.device, step_ms: float) -> dict[str, float]:
    """What each part of the stream takes, measured apart on generated JPEGs, and the sum for the whole stream."""
    import remind as bench

    from cl_kernel import save_tree
    from cl_kernel.torch.loaders import Batches
    from cl_plugin_remind.method.step import FEATURES
    from cl_plugin_remind.network.resnet import ResNet, split

    network = split(ResNet(1000, widths=(64, 128, 256, 512)), "layer4.1") if size.width == 512 else None
    network = network or split(ResNet(1000, widths=(8, 8, 8, 64), stem=8), "layer4.1")
    lower = network.lower.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    here = bench.Setting(size.width, size.width // 16, size.stored, device, full=True)
    quantiser = here.codec.quantisers[FEATURES]

    def encode(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return quantiser.encode_maps(lower(images))

    with photographs(size.images) as samples:
        batches = Batches(samples, device, transform=encode, n_workers=size.n_workers, limit=0)
        rows = np.arange(len(samples))
        first, rest = rows[: len(rows) // 10], rows[len(rows) // 10 :]
        for _ in batches(first, 128):  # workers and kernels warm
            pass
        wait(device)
        began = time.perf_counter()
        kept = [codes for _, codes, _ in batches(rest, 128)]
        wait(device)
        image_s = (time.perf_counter() - began) / len(rest)
    codes = torch.cat([torch.as_tensor(part) for part in kept]).to(device)
    here.upper.eval()
    began = time.perf_counter()
    with torch.inference_mode():
        for at in range(0, len(codes), 512):
            here.upper(quantiser.decode_maps(codes[at : at + 512])).softmax(1).argmax(1).cpu()
    evaluate_s = (time.perf_counter() - began) / len(codes)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        save_tree(Path(folder) / "state", {"memory": here.memory.state()})
        checkpoint_s = time.perf_counter() - began
    stream_s = STREAM * (image_s + step_ms / 1e3)
    seconds = stream_s + TEST_IMAGES * (image_s + EVALUATIONS * evaluate_s)
    seconds += stream_s / CHECKPOINT_EVERY_S * checkpoint_s
    return {
        "decode_and_encode_ms": 1e3 * image_s,
        "images_per_s": 1 / image_s,
        "step_ms": step_ms,
        "evaluate_ms_an_image": 1e3 * evaluate_s,
        "checkpoint_s": checkpoint_s,
        "checkpoint_examples": len(here.memory),
        "hours": seconds / 3600,
    }


@contextmanager
def photographs(n: int) -> Iterator[Any]:
    """A folder of generated 500 x 375 JPEGs of about 60 kB, as the plugin's data set reads it."""
    from cl_kernel import Resources
    from cl_plugin_remind.data.folders import imagenet as image_folder
    from cl_plugin_remind.settings import ImageNet

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("train", "val"):
            for label in range(2):
                (folder / part / f"n{label:08d}").mkdir(parents=True)
        coarse = rng.integers(0, 256, (64, 24, 32, 3), np.uint8)

        def draw(i: int) -> None:
            picture = Image.fromarray(coarse[i % 64]).resize((500, 375), Image.Resampling.BICUBIC)
            noise = np.random.default_rng([0, i]).integers(-22, 23, (375, 500, 1), np.int16)
            noisy = np.asarray(picture, np.int16) + noise
            part = "train" if i >= 4 else "val"
            target = folder / part / f"n{i % 2:08d}" / f"{i}.JPEG"
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(target, quality=85)

        with ThreadPoolExecutor() as pool:
            list(pool.map(draw, range(n)))
        stream = image_folder(ImageNet(images=str(folder), base_classes=2, max_class=0), Resources())
        yield stream.stages[0].train


# ---- the page ---------------------------------------------------------------------------------

RESTATED = ("restated_ms", "times_faster")
STEPS = {
    "remind": (remind, "REMIND streaming step, 51 maps, memory full", 1.3),
    "crumb": (crumb, "CRUMB step, cached features", 1.3),
    "butd": (butd, "BU-TD training step, 112 x 224", None),
    "moco": (moco, "CLEAR MoCo step", None),
}


def main() -> None:
    """Run the cases asked for; a case that fails is reported, and the others still run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=[*STEPS, "imagenet"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="shortened: tiny sizes, for trying the script")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    size, device = QUICK if options.quick else FULL_SIZE, torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    results: dict[str, Any] = {}
    failed: list[str] = []
    for name in options.cases:
        began = time.perf_counter()
        try:
            if name == "imagenet":
                found = imagenet(size, device, results.get("remind", {}).get("step_ms", float("nan")))
            else:
                found = STEPS[name][0](size, device)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        results[name] = found | {"took_s": time.perf_counter() - began}
        print(name, results[name], flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if options.output:
        _report.RESULTS = options.output
    about = _report.machine("torch", "torchvision", "numpy")
    about["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    sections = ["Wall time a step, TF32 on, cuDNN's choice of kernels measured; median of the rounds' ratios."]
    head = ("step", "ms", "captured floor ms", "times floor", "goal", "restated original ms", "times faster")
    rows = [
        (words, r["step_ms"], r["floor_ms"], r["times_floor"], goal or "", *(r.get(k, "") for k in RESTATED))
        for name, (_, words, goal) in STEPS.items()
        if (r := results.get(name))
    ]
    sections.append(_report.table(head, rows))
    if stream := results.get("imagenet"):
        sections.append(
            f"The ImageNet stream ({STREAM:,} examples one at a time, {EVALUATIONS} evaluations of {TEST_IMAGES:,} "
            f"images, a checkpoint every {CHECKPOINT_EVERY_S} s), projected from its measured parts:"
        )
        sections.append(_report.table(("part", "value"), [(k.replace("_", " "), v) for k, v in stream.items()]))
    _report.write("gpu", "Training steps on a GPU", results, sections, about=about)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
