"""Toy data: striped shapes whose class shows in form and in hue.

Training and validation images come from numpy. Replay comes from a real TF-Hub module exported here and from a
folder that plays the photo search, both of other domains. :func:`export_classifier` gives a classifier over the
generator's 40 classes, so that the class mapping has something to find.

Shapes: B batch, S side in pixels, K classes.
"""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import Resources, Stream
from cl_plugin_recall.data.files import encode_jpeg, encode_png
from cl_plugin_recall.data.steps import VOID, InMemory, build_stream, presence
from cl_plugin_recall.settings import Shapes

FORMS = ("disc", "square", "ring", "triangle", "cross")
HUES = ("red", "green", "cyan", "violet")
KINDS = tuple((form, (form + turn) % len(HUES)) for turn in range(len(HUES)) for form in range(len(FORMS)))
"""Form and hue of class k at entry k - 1: the first fifteen classes show every form and every hue."""
CLASSES = tuple(f"{HUES[hue]}_{FORMS[form]}" for form, hue in KINDS)
"""Class k is entry k - 1."""
PERIODS = (14.0, 10.0, 7.5, 5.5, 4.0)
"""Stripe period of each form, in pixels."""
N_GENERATOR_HUES = 8
FIRST = 15
"""Classes that the training set holds as many images of as a first step wants."""


def form_of(c: int) -> int:
    """Index of the form of class ``c``."""
    return KINDS[c - 1][0]


def hue_of(c: int) -> float:
    """Hue of class ``c``, in [0, 1)."""
    return KINDS[c - 1][1] / len(HUES)


def generator_class(c: int) -> int:
    """The generator's class that looks like class ``c``: what the class mapping should find."""
    return form_of(c) * N_GENERATOR_HUES + round(hue_of(c) * N_GENERATOR_HUES)


def inside(form: int, x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Pixels of a form of radius ``r`` around the origin, bool like ``x``."""
    d = np.hypot(x, y)
    match FORMS[form]:
        case "disc":
            return d < 0.95 * r
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) < 0.82 * r
        case "ring":
            return (d < r) & (d > 0.52 * r)
        case "triangle":
            return (y < 0.62 * r) & (y > 1.75 * np.abs(x) - 1.05 * r)
        case _:
            return ((np.abs(x) < 0.32 * r) | (np.abs(y) < 0.32 * r)) & (np.maximum(np.abs(x), np.abs(y)) < r)


def draw(image: np.ndarray, label: np.ndarray, c: int, rng: np.random.Generator) -> None:
    """Put an object of class ``c`` somewhere, with a one-pixel void border, in place."""
    side = image.shape[0]
    r = rng.uniform(11, 17) * side / 64
    cx, cy = rng.uniform(r * 0.8, side - r * 0.8, 2)
    angle = rng.uniform(-0.4, 0.4)
    gy, gx = np.mgrid[:side, :side].astype(np.float64)
    dx, dy = gx - cx, gy - cy
    x, y = np.cos(angle) * dx + np.sin(angle) * dy, -np.sin(angle) * dx + np.cos(angle) * dy
    shape = inside(form_of(c), x, y, r)
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * x / PERIODS[form_of(c)] + rng.uniform(0, 6.28))
    rgb = np.array(colorsys.hsv_to_rgb((hue_of(c) + rng.uniform(-0.02, 0.02)) % 1.0, rng.uniform(0.75, 1.0), 1.0))
    value = rng.uniform(0.75, 1.0) * (0.45 + 0.55 * stripes)
    image[shape] = (value[..., None] * rgb)[shape]
    core = shape.copy()
    core[1:] &= shape[:-1]
    core[:-1] &= shape[1:]
    core[:, 1:] &= shape[:, :-1]
    core[:, :-1] &= shape[:, 1:]
    label[shape] = VOID
    label[core] = c


def scene(classes: list[int], side: int, rng: np.random.Generator) -> tuple[bytes, bytes]:
    """An image with objects of ``classes`` on a noisy grey ground; JPEG and PNG bytes. The first lies on top."""
    tint = rng.uniform(-0.06, 0.06, 3)
    ground = rng.uniform(0.3, 0.65) + tint + rng.normal(0, 0.08, (side, side, 1))
    image, label = np.clip(ground, 0, 1), np.zeros((side, side), np.uint8)
    for c in reversed(classes):
        draw(image, label, c, rng)
    noisy = np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1)
    return encode_jpeg((255 * noisy).astype(np.uint8), 90), encode_png(label)


def images(settings: Shapes, rng: np.random.Generator) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    """Training and validation pairs: one or two objects an image.

    The second object of a training image of one of the first fifteen classes is one of these too; beside a later class
    may stand anything.
    """
    n = len(CLASSES)
    train = []
    for c in range(1, n + 1):
        count = settings.per_class_first if c <= FIRST else settings.per_class_later
        for _ in range(count):
            others = [int(rng.integers(1, (FIRST if c <= FIRST else n) + 1))] if rng.random() < 0.5 else []
            train.append(scene([c, *others], settings.side, rng))
    val = []
    for k in range(settings.n_val):
        others = [int(rng.integers(1, n + 1))] if rng.random() < 0.5 else []
        val.append(scene([k % n + 1, *others], settings.side, rng))
    return train, val


def build(settings: Shapes, resources: Resources) -> Stream:
    """A stream: 20 classes, 64x64 JPEG images with masks, the same protocols as real data."""
    from cl_plugin_recall.data.files import decode_png

    rng = resources.rng("recall stand-in") if settings.data_seed < 0 else np.random.default_rng(settings.data_seed)
    train, val = images(settings, rng)
    sides = []
    for name, pairs in (("training", train), ("validation", val)):
        labels = [decode_png(png) for _, png in pairs]
        sides.append(presence(labels, len(CLASSES), [f"toy {name} image {row}" for row in range(len(pairs))]))
    return build_stream(
        "shapes",
        train=InMemory(train, "toy"),
        val=InMemory(val, "toy validation"),
        train_present=sides[0],
        val_present=sides[1],
        class_names=CLASSES,
        settings=settings,
    )


# ---- the photo search ------------------------------------------------------------------------------


def photo(c: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """What the photo search brings for class ``c``: another ground, blur, one time in ten another class."""
    shown = int(rng.integers(1, len(CLASSES) + 1)) if rng.random() < 0.1 else c
    gy, gx = np.mgrid[:side, :side] / side
    waves = np.sin(rng.uniform(3, 12) * gx + rng.uniform(0, 6.28)) * np.sin(
        rng.uniform(3, 12) * gy + rng.uniform(0, 6.28)
    )
    image = np.clip(rng.uniform(0.35, 0.7) + 0.15 * waves[..., None] + rng.uniform(-0.1, 0.1, 3), 0, 1)
    draw(image, np.zeros((side, side), np.uint8), shown, rng)
    blurred = image.copy()
    for axis in (0, 1):
        blurred = 0.6 * blurred + 0.2 * np.roll(blurred, 1, axis) + 0.2 * np.roll(blurred, -1, axis)
    return (255 * np.clip(blurred + rng.normal(0, 0.03, blurred.shape), 0, 1)).astype(np.uint8)


def write_photos(folder: Path, per_class: int, side: int = 64, seed: int = 1) -> None:
    """Class folders ``01`` to ``20`` of photos, as the downloader leaves them."""
    rng = np.random.default_rng([seed, 0xF1])
    for c in range(1, len(CLASSES) + 1):
        place = folder / f"{c:02d}"
        place.mkdir(parents=True, exist_ok=True)
        for k in range(per_class):
            (place / f"{k:04d}.jpg").write_bytes(encode_jpeg(photo(c, side, rng), 90))


# ---- the generator and the classifier, as SavedModels ----------------------------------------------


def export_generator(folder: Path, side: int = 64) -> None:
    """A module with BigGAN's call: ``z`` [B, 128], ``y`` one-hot [B, 40], ``truncation`` -> [B, S, S, 3] in [-1, 1].

    Position, size, rotation, hue jitter, stripes and shading all come from ``z``.
    """
    from cl_plugin_recall.backend import tf

    n_forms, n_hues = len(FORMS), N_GENERATOR_HUES
    forms = np.repeat(np.eye(n_forms, dtype=np.float32), n_hues, axis=0)
    hues = np.tile(np.arange(n_hues, dtype=np.float32) / n_hues, n_forms)
    periods = np.repeat(np.array(PERIODS, np.float32), n_hues)
    grid = np.arange(side, dtype=np.float32)

    def spread(value: Any, low: float, high: float) -> Any:
        """A normal draw of at most two deviations -> [low, high]."""
        unit = 0.5 + 0.25 * tf.clip_by_value(value, -2.0, 2.0)
        return (low + (high - low) * unit)[:, None, None]

    @tf.function(autograph=False)
    def render(z: Any, y: Any, truncation: Any) -> dict[str, Any]:
        del truncation  # z comes scaled already, as BigGAN's does
        scale = side / 64
        r = spread(z[:, 0], 11 * scale, 17 * scale)
        cx, cy = spread(z[:, 1], 0.25 * side, 0.75 * side), spread(z[:, 2], 0.25 * side, 0.75 * side)
        angle = spread(z[:, 3], -0.4, 0.4)
        dx, dy = grid[None, None, :] - cx, grid[None, :, None] - cy
        x, v = tf.cos(angle) * dx + tf.sin(angle) * dy, -tf.sin(angle) * dx + tf.cos(angle) * dy
        d = tf.sqrt(x * x + v * v)
        box = tf.maximum(tf.abs(x), tf.abs(v))
        shapes = tf.stack(
            [
                d < 0.95 * r,
                box < 0.82 * r,
                (d < r) & (d > 0.52 * r),
                (v < 0.62 * r) & (v > 1.75 * tf.abs(x) - 1.05 * r),
                ((tf.abs(x) < 0.32 * r) | (tf.abs(v) < 0.32 * r)) & (box < r),
            ],
            -1,
        )
        mask = tf.reduce_sum(tf.cast(shapes, tf.float32) * (y @ forms)[:, None, None, :], -1)
        period = (y @ periods[:, None])[:, :, None]
        stripes = 0.5 + 0.5 * tf.sin(2 * np.pi * x / period + 1.5 * z[:, 4][:, None, None])
        hue = tf.math.floormod((y @ hues[:, None])[:, :, None] + spread(z[:, 5], -0.02, 0.02), 1.0) * tf.ones_like(x)
        value = spread(z[:, 6], 0.75, 1.0) * (0.45 + 0.55 * stripes)
        thing = tf.image.hsv_to_rgb(tf.stack([hue, spread(z[:, 7], 0.75, 1.0) * tf.ones_like(x), value], -1))
        shade = tf.sin(
            grid[None, None, :] * spread(z[:, 8], 0.05, 0.3) + grid[None, :, None] * spread(z[:, 9], 0.05, 0.3)
        )
        ground = (spread(z[:, 10], 0.35, 0.65) + 0.12 * shade)[..., None] + 0.04 * z[:, None, None, 11:14]
        noise = (
            tf.math.floormod(
                tf.sin(grid[None, None, :] * 12.9898 + grid[None, :, None] * 78.233 + 10.0 * z[:, 14][:, None, None])
                * 43758.547,
                1.0,
            )
            - 0.5
        )
        image = tf.where(mask[..., None] > 0.5, thing, ground) + 0.12 * noise[..., None]
        return {"default": 2.0 * tf.clip_by_value(image, 0.0, 1.0) - 1.0}

    signature = render.get_concrete_function(
        z=tf.TensorSpec([None, 128], tf.float32, "z"),
        y=tf.TensorSpec([None, n_forms * n_hues], tf.float32, "y"),
        truncation=tf.TensorSpec([], tf.float32, "truncation"),
    )
    module = tf.Module()
    module.render = render
    tf.saved_model.save(module, str(folder), signatures={"default": signature})


def export_classifier(folder: Path, side: int = 64, seed: int = 3) -> None:
    """A classifier over the generator's 40 classes: [B, S, S, 3] in [0, 1] -> logits, by nearest colour and form."""
    from cl_plugin_recall.backend import tf

    n_hues = N_GENERATOR_HUES
    gy, gx = (tf.constant(a.astype(np.float32)) for a in np.mgrid[:side, :side])

    def statistics(images: Any) -> tuple[Any, Any]:
        """Mean hue direction per colour bin [B, 8], and rotation-tolerant form statistics [B, 3]."""
        hsv = tf.image.rgb_to_hsv(images)
        weight = tf.cast(hsv[..., 1] > 0.55, tf.float32)
        total = tf.reduce_sum(weight, [1, 2]) + 1e-6
        bins = tf.reshape(tf.range(n_hues, dtype=tf.float32) / n_hues, [1, 1, 1, -1])
        near = tf.exp(6.0 * (tf.cos(2 * np.pi * (hsv[..., :1] - bins)) - 1.0))
        hue = tf.reduce_sum(near * weight[..., None], [1, 2]) / total[:, None]

        def mean(a: Any) -> Any:
            return tf.reduce_sum(a * weight, [1, 2]) / total

        dx, dy = gx - mean(gx[None])[:, None, None], gy - mean(gy[None])[:, None, None]
        square = mean(dx * dx + dy * dy) + 1e-6
        re, im = dx / tf.sqrt(square)[:, None, None], dy / tf.sqrt(square)[:, None, None]
        c2, s2 = re * re - im * im, 2 * re * im
        c3, s3 = re * c2 - im * s2, re * s2 + im * c2
        c4, s4 = c2 * c2 - s2 * s2, 2 * c2 * s2
        three, four = tf.sqrt(mean(c3) ** 2 + mean(s3) ** 2), tf.sqrt(mean(c4) ** 2 + mean(s4) ** 2)
        return hue, tf.stack([total / (2 * np.pi * square), three, four], 1)

    rng = np.random.default_rng(seed)
    templates = []
    for form in range(len(FORMS)):
        pictures = []
        for _ in range(24):
            image = np.full((side, side, 3), 0.5)
            draw(image, np.zeros((side, side), np.uint8), form + 1, rng)  # class k <= 5 has form k - 1
            pictures.append(image.astype(np.float32))
        templates.append(statistics(tf.constant(np.stack(pictures)))[1].numpy())
    centres = np.stack([np.median(t, 0) for t in templates]).astype(np.float32)
    widths = np.concatenate([t - np.median(t, 0) for t in templates]).std(0).astype(np.float32) + 1e-3

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32, "images")], autograph=False)
    def classify(images: Any) -> dict[str, Any]:
        hue, form = statistics(images)
        distance = tf.reduce_sum(tf.minimum(tf.abs(form[:, None] - centres[None]) / widths, 4.0), -1)
        return {"logits": tf.reshape(-distance[:, :, None] + 8.0 * hue[:, None, :], [-1, len(FORMS) * n_hues])}

    module = tf.Module()
    module.classify = classify
    tf.saved_model.save(module, str(folder), signatures={"serving_default": classify})
