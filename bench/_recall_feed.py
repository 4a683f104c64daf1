"""RECALL's input pipeline at 500x375, scale 0.5 to 1.5, crop 321, in CPU time an image, beside two others.

*Bare*: ``tf.io`` and ``tf.image`` in one compiled function an image, on the same files, for the same crops: part of the
JPEG, label, resize, flip, padding, mean. *Before*: the pipeline that decoded and scaled whole images in ``tf.data``,
restated. Each way lives in a process of its own, since it leaves memory in a state that slows the next
one down; they take turns, a pass over the files each.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.feed import Augmentation, Maker, batches
from cl_plugin_recall.data.files import decode_png, encode_jpeg, encode_png, record_fields
from cl_plugin_recall.data.images import augment, decode_jpeg, subtract_mean
from cl_plugin_recall.data.steps import InMemory, StepSamples
from cl_plugin_recall.method.interleave import Plain, shuffled
from cl_plugin_recall.network.inputs import InputSpec

HEIGHT, WIDTH, CROP, BATCH, N = 375, 500, 321, 4, 64
LOW, HIGH = 0.5, 1.5
NO_CHANGE = np.arange(256, dtype=np.uint8)
Pair = tuple[bytes, bytes]


def pictures() -> list[Pair]:
    """JPEG and label PNG each, with as much detail as a photograph has bytes."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(N):
        image = np.kron(rng.integers(0, 255, (48, 63, 3), np.uint8), np.ones((8, 8, 1), np.uint8))[:HEIGHT, :WIDTH]
        pairs.append((encode_jpeg(image, 90), encode_png(image[..., 0] // 13)))
    return pairs


def schedule() -> Plain:
    return Plain(order=shuffled(N, np.random.default_rng), n=N, batch_size=BATCH)


def draws(t: int, n: int) -> np.ndarray:
    return np.random.default_rng(t).random((n, 4))


def plugin(pairs: list[Pair], spec: InputSpec) -> Callable[[], Iterable[Any]]:
    samples = StepSamples(InMemory(pairs, "noise"), np.arange(N), None, record_fields(21))
    augmentation = Augmentation(scale=(LOW, HIGH), size=CROP)
    maker = Maker(new=samples, old=None, table=NO_CHANGE, augmentation=augmentation, spec=spec)
    return lambda: batches(schedule(), maker, start=0, stop=N // BATCH, draws=draws)


def before(pairs: list[Pair], spec: InputSpec) -> Callable[[], Iterable[Any]]:
    """Label maps decoded in Python, handed over as bytes; whole images decoded, scaled and cropped in ``tf.data``."""

    def generate() -> Iterator[tuple[Any, ...]]:
        for t in range(N // BATCH):
            chosen = [pairs[row] for _, row in schedule().batch(t)]
            masks = [decode_png(label) for _, label in chosen]
            yield (
                np.array([data for data, _ in chosen], object),
                np.array([NO_CHANGE[mask].tobytes() for mask in masks], object),
                np.array([mask.shape for mask in masks], np.int32),
                draws(t, BATCH).astype(np.float32),
            )

    def one(element: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        data, mask, shape, draw = element
        label = tf.reshape(tf.io.decode_raw(mask, tf.uint8), tf.concat([shape, [1]], 0))
        scale, image = LOW + (HIGH - LOW) * draw[0], subtract_mean(decode_jpeg(data), spec)
        x, y = augment(image, label, scale=scale, flip=draw[1], offset=None, draws=draw[2:], size=CROP)
        return tf.ensure_shape(x, [CROP, CROP, 3]), tf.ensure_shape(y[..., 0], [CROP, CROP])

    given = (
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([None, 2], tf.int32),
        tf.TensorSpec([None, 4], tf.float32),
    )
    made = (tf.TensorSpec([CROP, CROP, 3], tf.float32), tf.TensorSpec([CROP, CROP], tf.uint8))
    each = tf.autograph.experimental.do_not_convert(
        lambda *element: tf.map_fn(one, element, fn_output_signature=made, parallel_iterations=4)
    )
    stream = tf.data.Dataset.from_generator(generate, output_signature=given)
    stream = stream.map(each, num_parallel_calls=2, deterministic=True).prefetch(4)
    return lambda: stream


def bare(pairs: list[Pair], spec: InputSpec) -> Callable[[], Iterable[Any]]:
    """One compiled function an image, four to a batch."""

    @tf.function(autograph=False)
    def one(data: tf.Tensor, label: tf.Tensor, draw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scale = LOW + (HIGH - LOW) * draw[0]
        scaled = tf.cast(tf.constant([HEIGHT, WIDTH], tf.float32) * scale, tf.int32)
        inside = tf.minimum(scaled, CROP)
        size = tf.cast(tf.cast(inside, tf.float32) / scale, tf.int32)
        room = tf.cast(tf.constant([HEIGHT, WIDTH]) - size + 1, tf.float32)
        at = tf.cast(draw[2:] * room, tf.int32)
        part = tf.image.decode_and_crop_jpeg(data, tf.concat([at, size], 0), channels=3, fancy_upscaling=False)
        mask = tf.slice(tf.io.decode_png(label, channels=1), [at[0], at[1], 0], [size[0], size[1], 1])
        image = tf.image.resize(part, inside) - tf.constant(spec.mean)
        mask = tf.image.resize(mask, inside, "nearest")
        image, mask = tf.cond(
            draw[1] < 0.5,
            lambda: (tf.image.flip_left_right(image), tf.image.flip_left_right(mask)),
            lambda: (image, mask),
        )
        missing = [[0, CROP - inside[0]], [0, CROP - inside[1]], [0, 0]]
        return tf.pad(image, missing), tf.pad(mask, missing, constant_values=255)

    def made() -> Iterator[Any]:
        for t in range(N // BATCH):
            chosen = [pairs[row] for _, row in schedule().batch(t)]
            found = [
                one(tf.constant(data), tf.constant(label), tf.constant(draw))
                for (data, label), draw in zip(chosen, draws(t, BATCH).astype(np.float32), strict=True)
            ]
            yield tf.stack([x for x, _ in found]), tf.stack([y for _, y in found])

    return made


WAYS: dict[str, Callable[[list[Pair], InputSpec], Callable[[], Iterable[Any]]]] = {
    "plugin": plugin,
    "bare": bare,
    "before": before,
}


def serve(way: str) -> None:
    """Make one pass for every line that comes in, and say how many CPU seconds it took."""
    stream = WAYS[way](pictures(), InputSpec(order="rgb"))
    for _ in sys.stdin:
        began = time.process_time()
        for _batch in stream():
            pass
        print(time.process_time() - began, flush=True)


def measure(n: int) -> dict[str, list[float]]:
    """CPU seconds an image in each of ``n`` rounds."""
    command, pipe = [sys.executable, __file__], subprocess.PIPE
    servers = {way: subprocess.Popen([*command, way], stdin=pipe, stdout=pipe, text=True) for way in WAYS}

    def ask(server: subprocess.Popen[str]) -> float:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write("\n")
        server.stdin.flush()
        return float(server.stdout.readline()) / N

    found = [{way: ask(server) for way, server in servers.items()} for _ in range(n + 1)]
    for server in servers.values():
        server.communicate()
    return {way: [seconds[way] for seconds in found[1:]] for way in WAYS}


if __name__ == "__main__":
    serve(sys.argv[1])
