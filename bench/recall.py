"""RECALL's training steps and input pipeline: ``python bench/recall.py [--full]``.

*Overhead ratio*: time of a step of the plugin, its input pipeline included, over that of a bare loop that runs the
same compiled graph on one batch already in memory; step 0 (all trained) and incremental (decoder only). *Pipeline*:
images a second out of the pipeline alone. *Shuffle*: bytes held for shuffling, beside the decoded float32 crops that
the reference's buffer of 400 x N samples holds. ``--full`` adds one step of the paper's network at 321x321, batch 4,
beside its arithmetic (spec section 10).
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from _report import machine, ratio, rounds, table, write

from cl_kernel import Site
from cl_plugin_recall import model, phases, standin
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.feed import Augmentation, batches
from cl_plugin_recall.replay.interleave import Plain, shuffled
from cl_plugin_recall.settings import Recall, Shapes
from cl_plugin_recall.tables import class_table

BATCH, SIDE, STEPS = 16, 64, 10
GMAC_FULL = 75.0 + 2.6
"""Forward multiply-adds of one 321x321 image, encoder and decoder."""


def feed(samples: Any) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    return batches(
        Plain(order=shuffled(len(samples), np.random.default_rng), n=len(samples), batch_size=BATCH),
        samples,
        None,
        start=0,
        stop=10**9,
        table=np.arange(256, dtype=np.uint8),
        augmentation=Augmentation(scale=(1.0, 1.0), size=SIDE),
        spec=model.InputSpec(),
        draws=lambda t, n: np.random.default_rng(t).random((n, 4)),
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


def full_step() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    encoder = model.ResNet(model.ResNetSpec(), rng)
    decoder = model.Decoder(encoder.depth, 21, rng)
    x = tf.constant(rng.normal(0, 50, (4, 321, 321, 3)).astype(np.float32))
    y = tf.constant(rng.integers(0, 21, (4, 321, 321)).astype(np.uint8))
    found = {}
    for name, whole, factor in (("step 0", True, 3.0), ("incremental", False, 1.0)):
        step = phases.TrainStep(encoder, decoder, class_table(range(21)), Recall(), whole=whole)
        step(x, y, tf.constant(1e-6)).numpy()
        began = time.perf_counter()
        loss = float(step(x, y, tf.constant(1e-6)))
        seconds = time.perf_counter() - began
        found[name] = {"seconds": seconds, "gflops": 2 * 4 * GMAC_FULL * factor / seconds, "loss": loss}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also the paper's network at full size")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    stream = standin.build(Shapes(data_seed=0, n_val=20), Site())
    samples = stream.stages[0].train
    rng = np.random.default_rng(0)
    encoder = model.SmallEncoder(rng)
    decoder = model.Decoder(encoder.depth, 21, rng, (1, 2, 3, 4))
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
    encoded = sum(len(a) + len(b) for a, b in (samples.base.encoded(int(row)) for row in samples.rows))
    order = samples.rows.nbytes
    decoded = 400 * 19 * 321 * 321 * (3 * 4 + 1)
    results["shuffle"] = {
        "order_bytes": order,
        "encoded_bytes": encoded,
        "reference_decoded_bytes_at_19_classes": decoded,
    }
    rows.append(
        ("shuffling holds", f"{order:,} B of row numbers for {len(samples)} images ({encoded:,} B encoded, not copied)")
    )
    rows.append(("reference's decoded buffer at 19 classes", f"{decoded / 1e9:.1f} GB"))
    if options.full:
        results["full"] = full_step()
        for name, one in results["full"].items():
            rows.append(
                (f"paper's network, batch 4 at 321x321, {name}", f"{one['seconds']:.1f} s, {one['gflops']:.0f} GFLOP/s")
            )
    write(
        "recall",
        "RECALL: training steps and input pipeline",
        results,
        [table(("what", "result"), rows)],
        about=machine("tensorflow", "numpy"),
    )


if __name__ == "__main__":
    main()
