"""RECALL's training steps and input pipeline: ``python bench/recall.py [--full]``. Writes results/recall.{json,md}.

*Overhead ratio*: time of a step of the plugin, its input pipeline included, over that of a bare loop that runs the
same compiled graph on one batch already in memory; step 0 (all trained) and incremental (decoder only). *Pipeline*:
images a second out of the pipeline alone. *Shuffle*: resident memory that shuffling 400 x 2 images of 321x321 adds, a
process each: the plugin's pipeline beside one that shuffles decoded crops in a buffer as the reference's does.
*Crops*: see ``_recall_feed.py``.
``--full`` adds one step of the paper's network at 321x321, batch 4, beside its arithmetic
at the rate at which this machine multiplies matrices.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _recall_feed import NO_CHANGE, draws, measure
from _report import machine, ratio, rounds, table, write

from cl_kernel import Resources
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data import toy
from cl_plugin_recall.data.feed import Augmentation, Maker, batches
from cl_plugin_recall.data.files import encode_jpeg, encode_png, record_fields
from cl_plugin_recall.data.images import augment, decode_jpeg, subtract_mean
from cl_plugin_recall.data.steps import InMemory, StepSamples
from cl_plugin_recall.data.tables import class_table
from cl_plugin_recall.method import phases
from cl_plugin_recall.method.interleave import Plain, shuffled
from cl_plugin_recall.network import inputs, resnet, small
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.settings import Recall, Shapes

BATCH, SIDE, STEPS = 16, 64, 10
GMAC_ENCODER, GMAC_DECODER = 75.0, 2.6
"""Forward multiply-adds of one 321x321 image; backward takes twice as many."""


SHUFFLED, CROP = 400 * 2, 321


def feed(samples: Any, batch: int = BATCH, side: int = SIDE) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    augmentation = Augmentation(scale=(1.0, 1.0), size=side)
    order = shuffled(len(samples), np.random.default_rng)
    return batches(
        Plain(order=order, n=len(samples), batch_size=batch),
        Maker(new=samples, old=None, table=NO_CHANGE, augmentation=augmentation, spec=inputs.InputSpec()),
        start=0,
        stop=10**9,
        draws=draws,
    )


def steps_in_memory(step: phases.TrainStep, x: tf.Tensor, y: tf.Tensor) -> None:
    rate = tf.constant(1e-4)
    for _ in range(STEPS):
        loss = step(x, y, rate)
    loss.numpy()


def steps_from_feed(
    step: phases.TrainStep, stream: Iterator[tuple[tf.Tensor, tf.Tensor]], plan: phases.PhasePlan
) -> None:
    for t, (x, y) in enumerate(itertools.islice(stream, STEPS)):
        loss = step(x, y, tf.constant(plan.rate(t), tf.float32))
    loss.numpy()


def gflops() -> float:
    """Rate of a float32 matrix product, the arithmetic floor of this machine."""
    a = tf.constant(np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32))
    product = tf.function(lambda: tf.reduce_sum(a @ a))
    seconds = rounds({"product": lambda: product().numpy()}, 9)["product"]
    return 2 * 2048**3 / float(np.median(seconds)) / 1e9


def full_step() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    encoder = resnet.ResNet(resnet.ResNetSpec(), rng)
    decoder = Decoder(encoder.depth, 21, rng)
    x = tf.constant(rng.normal(0, 50, (4, 321, 321, 3)).astype(np.float32))
    y = tf.constant(rng.integers(0, 21, (4, 321, 321)).astype(np.uint8))
    found: dict[str, Any] = {"matrix_product_gflops": gflops()}
    for name, whole in (("incremental", False), ("step 0", True)):
        gmac = 4 * (GMAC_ENCODER + GMAC_DECODER) * 3 if whole else 4 * (GMAC_ENCODER + 3 * GMAC_DECODER)
        step = phases.TrainStep(encoder, decoder, class_table(range(21)), Recall(), whole=whole)
        step(x, y, tf.constant(1e-6)).numpy()
        began = time.perf_counter()
        step(x, y, tf.constant(1e-6)).numpy()
        seconds = time.perf_counter() - began
        floor = 2 * gmac / found["matrix_product_gflops"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found[name] = {"seconds": seconds, "gflops": 2 * gmac / seconds, "floor_s": floor, "peak_bytes": peak}
    return found


def shuffle_memory(way: str) -> int:
    """Bytes of resident memory that a shuffled pass of batches of 4 adds."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(SHUFFLED):
        coarse = rng.integers(0, 255, (23, 23, 3), np.uint8)
        image = np.kron(coarse, np.ones((14, 14, 1), np.uint8))[:CROP, :CROP]
        pairs.append((encode_jpeg(image, 95), encode_png(image[..., 0] // 13)))
    samples = StepSamples(InMemory(pairs, "noise"), np.arange(SHUFFLED), None, record_fields(21))
    next(feed(samples, 4, CROP))  # what TensorFlow takes once
    before = _resident()
    if way == "encoded":
        stream = feed(samples, 4, CROP)
    else:

        def decoded(data: tf.Tensor, label: tf.Tensor, draw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image, mask = subtract_mean(decode_jpeg(data), inputs.InputSpec()), tf.io.decode_png(label, channels=1)
            return augment(image, mask, scale=1.0, flip=draw[0], offset=None, draws=draw[1:], size=CROP)

        source = tf.data.Dataset.from_tensor_slices(
            ([p[0] for p in pairs], [p[1] for p in pairs], rng.random((SHUFFLED, 3)).astype(np.float32))
        )
        mapped = source.map(decoded, num_parallel_calls=2)
        stream = iter(mapped.repeat().shuffle(SHUFFLED, seed=0).batch(4).prefetch(4))
    for _ in range(SHUFFLED // 8):
        next(stream)
    return max(0, _resident() - before)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _shuffle_apart(way: str) -> int:
    command = [sys.executable, __file__, "--shuffle", way]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also the paper's network at full size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shuffle", choices=("encoded", "decoded"), help="measure only this, for one process")
    options = parser.parse_args()
    if options.shuffle:
        print(shuffle_memory(options.shuffle))
        return
    tf.config.experimental.enable_op_determinism()
    stream = toy.build(Shapes(data_seed=0, n_val=20), Resources())
    samples = stream.stages[0].train
    rng = np.random.default_rng(0)
    encoder = small.SmallEncoder(rng)
    decoder = Decoder(encoder.depth, 21, rng, (1, 2, 3, 4))
    settings = Recall(optimiser="adam")
    plan = phases.first_plan(settings, 15)
    source = feed(samples)
    x, y = next(source)
    results: dict[str, Any] = {}
    rows = []
    for name, whole in (("step 0", True), ("incremental", False)):
        step = phases.TrainStep(encoder, decoder, class_table(range(21)), settings, whole=whole)
        seconds = rounds(
            {
                "bare": lambda step=step: steps_in_memory(step, x, y),
                "plugin": lambda step=step: steps_from_feed(step, source, plan),
            },
            options.rounds,
        )
        times = ratio(seconds, "plugin", "bare")
        results[name] = {
            "bare_ms": 1e3 * float(np.median(seconds["bare"])) / STEPS,
            "plugin_ms": 1e3 * float(np.median(seconds["plugin"])) / STEPS,
            "ratio": times,
        }
        rows.append((f"{name}: bare loop", f"{results[name]['bare_ms']:.1f} ms"))
        rows.append((f"{name}: with pipeline", f"{results[name]['plugin_ms']:.1f} ms"))
        rows.append((f"{name}: overhead ratio (goal 1.10)", f"{times:.2f}"))
    alone = rounds({"pipeline": lambda: [next(source) for _ in range(STEPS)]}, options.rounds)["pipeline"]
    results["pipeline_images_per_s"] = STEPS * BATCH / float(np.median(alone))
    rows.append(("input pipeline alone", f"{results['pipeline_images_per_s']:.0f} images/s"))
    results["shuffle_bytes"] = {way: _shuffle_apart(way) for way in ("encoded", "decoded")}
    for way, text in (("encoded", "the plugin's pipeline"), ("decoded", "a buffer of decoded crops")):
        rows.append(
            (f"shuffling {SHUFFLED} images of {CROP}x{CROP}, {text}", f"{results['shuffle_bytes'][way] / 1e6:,.0f} MB")
        )
    crops = results["crop_cpu_s"] = measure(options.rounds)
    for name, seconds in crops.items():
        rows.append((f"an image of 500x375 to a crop of 321, {name}", f"{1e3 * float(np.median(seconds)):.1f} ms CPU"))
    for name, goal, times in (
        ("times the bare operations", "at most 1.3", ratio(crops, "plugin", "bare")),
        ("times faster than before", "at least 2.5", ratio(crops, "before", "plugin")),
    ):
        rows.append((f"the same, {name} (goal {goal})", f"{times:.2f}"))
    if options.full:
        full = results["full"] = full_step()
        rows.append(("matrix product, float32", f"{full['matrix_product_gflops']:.0f} GFLOP/s"))
        for name in ("incremental", "step 0"):
            one = full[name]
            rows.append(
                (
                    f"paper's network, batch 4 at 321x321, {name}",
                    f"{one['seconds']:.1f} s, {one['seconds'] / one['floor_s']:.1f} times its arithmetic "
                    f"({one['gflops']:.0f} GFLOP/s), peak {one['peak_bytes'] / 1e9:.1f} GB",
                )
            )
    eaten = 1e3 * BATCH / results["incremental"]["plugin_ms"]
    limit = (
        f"What limits it now: arithmetic. The pipeline alone delivers {results['pipeline_images_per_s']:.0f} images/s, "
        f"of which the fastest step takes {eaten:.0f}; its threads share the cores with the step, which is the "
        "overhead that remains. At full size, step 0 is probably held up by memory traffic (gigabytes of activations, "
        "batch normalisation and ReLU as passes of their own), since one dilated convolution by itself, forward and "
        "backward, reaches three quarters of the matrix product's rate."
    )
    write(
        "recall",
        "RECALL: training steps and input pipeline",
        results,
        [table(("what", "result"), rows), limit],
        about=machine("tensorflow", "numpy"),
    )


if __name__ == "__main__":
    main()
