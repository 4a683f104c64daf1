"""Toy data that need nothing: ``toy-yfcc`` (metadata, pictures, toy CLIP) and ``toy-drift`` (vectors).

Shapes: N items, H W picture, C classes, D features, B buckets.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cl_kernel import ArraySamples, BadInput, Field, Stage, Stream, fingerprint

if TYPE_CHECKING:
    from cl_kernel import Resources
    from cl_plugin_clear.settings import ToyDrift, ToyPictures

SHAPES = ("disc", "ring", "square", "cross", "triangle", "stripes")
TEXTURE = "texture"
FIRST_UPLOAD = int(datetime(2004, 1, 1, 11, 52, 13, tzinfo=UTC).timestamp())
LAST_UPLOAD = int(datetime(2014, 4, 28, 10, 49, 19, tzinfo=UTC).timestamp())
TOY_DIM = 64


# ---- metadata ---------------------------------------------------------------------------------


def write_metadata(folder: Path, n: int = 6000, seed: int = 0) -> None:
    """The five text files: ties, clocks ahead, "null" and empty dates, videos, empty autotags, upload 0, odd titles."""
    from cl_plugin_clear.curation.records import derived_hash

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 1])
    uploaded = rng.integers(FIRST_UPLOAD, LAST_UPLOAD + 1, n)
    uploaded[: n // 50] = uploaded[n // 50 : 2 * (n // 50)]  # ties
    uploaded = rng.permutation(uploaded)
    kind = rng.permutation(n)
    ahead, equal, null, empty = (
        set(kind[int(a * n) : int(b * n)].tolist()) for a, b in ((0, 0.03), (0.03, 0.04), (0.04, 0.055), (0.055, 0.07))
    )
    video = set(rng.permutation(n)[: max(1, int(0.008 * n))].tolist())
    zero = set(rng.permutation(n)[: max(1, int(0.01 * n))].tolist())
    no_tags = rng.random(n) < 0.2
    ids = 1_000_000 + 7 * rng.permutation(n)
    rows: dict[str, list[str]] = {name: [] for name in ("dataset", "autotags-v1", "lines", "hash", "exif")}
    for i in range(n):
        stamp = 0 if i in zero else int(uploaded[i])
        taken_stamp = (
            stamp + 3600 * int(rng.integers(1, 100))
            if i in ahead
            else stamp
            if i in equal
            else stamp - int(rng.integers(60, 86400 * 30))
        )
        taken = (
            "null"
            if i in null
            else ""
            if i in empty
            else datetime.fromtimestamp(max(taken_stamp, -(10**9)), UTC).strftime("%Y-%m-%d %H:%M:%S.0")
        )
        title = ("sunset+%28at+the+lake%29", 'the+"big"+one', "100%25", "plain", "it%27s")[i % 5]
        secret = f"{int(rng.integers(1 << 40)):010x}"
        fields = [
            str(ids[i]),
            f"{10000000 + i % 997}@N0{i % 9}",
            f"user+{i % 997}",
            taken,
            str(stamp),
            "Canon+EOS" if i % 3 else "",
            title,
            "a+longer+text" if i % 2 else "",
            "lake,summer" if i % 4 else "",
            "",
            "12.5" if i % 3 == 0 else "",
            "-33.25" if i % 3 == 0 else "",
            "16" if i % 3 == 0 else "",
            f"http://toy/photos/{ids[i]}/",
            f"toy://{ids[i]}/{stamp}",
            "Attribution License",
            "http://creativecommons.org/licenses/by/2.0/",
            str(i % 600),
            str(i % 9),
            secret,
            secret[::-1],
            ("jpg", "jpg", "jpg", "png")[i % 4],
            "1" if i in video else "0",
        ]
        rows["dataset"].append("\t".join(fields))
        tags = (
            ""
            if no_tags[i]
            else ",".join(
                f"{tag}:{0.5 + 0.01 * ((i + k) % 50):.3f}"
                for k, tag in enumerate(("outdoor", "lake", "art")[: 1 + i % 3])
            )
        )
        rows["autotags-v1"].append(f"{ids[i]}\t{tags}")
        rows["lines"].append(f"{i}\t{ids[i]}")
        rows["hash"].append(f"{ids[i]}\t{derived_hash(fields[14])}")
        rows["exif"].append(f"{ids[i]}\tExif+IFD0.Make:Canon")
    for name, lines in rows.items():
        (folder / f"yfcc100m_{name}").write_text("\n".join(lines) + "\n")


# ---- pictures ---------------------------------------------------------------------------------


def _rng(*key: Any) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little"))


def class_of(photo_id: int) -> str:
    """What a picture shows: one of the six shapes, or only texture."""
    return (*SHAPES, *SHAPES, TEXTURE, TEXTURE)[int(_rng("class", photo_id).integers(14))]


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)


def render(shape: str, years: float, key: Sequence[Any], width: int = 96, height: int = 80) -> np.ndarray:
    """A picture uint8 [H, W, 3]: hue, size, stroke and background turn with time at a pace of the class.

    :param years: time since the first upload, in years.
    :param key: identifies the picture; the same key gives the same picture.
    """
    rng = _rng("render", shape, *key)
    index = (*SHAPES, TEXTURE).index(shape)
    pace = 0.35 + 0.12 * index
    angle = pace * years
    hue = (0.14 * index + 0.08 * math.sin(angle) + 0.015 * rng.standard_normal()) % 1.0
    back = (0.5 + 0.14 * index + 0.06 * math.cos(angle) + 0.03 * rng.standard_normal()) % 1.0
    size = (0.28 + 0.05 * math.sin(angle + index) + 0.02 * rng.standard_normal()) * min(width, height)
    stroke = max(2.0, size * (0.25 + 0.08 * math.cos(angle)))
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    cx, cy = width * (0.5 + 0.06 * rng.standard_normal()), height * (0.5 + 0.06 * rng.standard_normal())
    turn = 0.15 * rng.standard_normal()
    u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
    v = -(x - cx) * math.sin(turn) + (y - cy) * math.cos(turn)
    r = np.sqrt(u * u + v * v)
    if shape == "disc":
        mask = r < size
    elif shape == "ring":
        mask = np.abs(r - size) < stroke / 2
    elif shape == "square":
        mask = np.maximum(np.abs(u), np.abs(v)) < size
    elif shape == "cross":
        mask = (np.minimum(np.abs(u), np.abs(v)) < stroke / 2) & (np.maximum(np.abs(u), np.abs(v)) < 1.2 * size)
    elif shape == "triangle":
        mask = (v < size) & (v > -size) & (np.abs(u) < (v + size) / 2)
    elif shape == "stripes":
        mask = (np.mod(u, stroke * 2) < stroke) & (np.abs(u) < 1.6 * size)
    else:
        mask = np.zeros_like(r, bool)
    noise = 6.0 * rng.standard_normal((height, width, 1), dtype=np.float32)
    colours = (np.stack([_hsv(back, 0.45, 0.55), _hsv(hue, 0.85, 0.9)]) * 255.0).astype(np.float32)
    picture = colours[mask.astype(np.intp)]
    if shape == TEXTURE:
        waves = sum(np.sin((x * a + y * b) * (0.08 + 0.3 * rng.random()) + c) for a, b, c in rng.random((3, 3)) * 6 - 3)
        tint = (_hsv(rng.random(), 0.5, 0.6) * 255.0).astype(np.float32)
        picture = tint + 18.0 * np.asarray(waves, np.float32)[..., None]
    picture += noise
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


def answer(url: str) -> bytes:
    """What the toy host sends for ``toy://<id>/<upload stamp>``: JPEG bytes, 5 % of them trouble.

    2 % are too small, 2 % too elongated, 1 % no picture at all.
    """
    photo_id, stamp = (int(part) for part in url.removeprefix("toy://").split("/"))
    rng = _rng("answer", photo_id)
    luck = rng.random()
    if luck < 0.01:
        return b"<html>sorry" + bytes(rng.integers(0, 256, 200, dtype=np.uint8))
    width, height = int(rng.integers(64, 161)), int(rng.integers(64, 97))
    if width / height > 1.95:
        width = int(height * 1.5)
    if luck < 0.03:
        width, height = 40, 30
    elif luck < 0.05:
        width, height = 160, 64
    years = max(stamp - FIRST_UPLOAD, 0) / (365.25 * 86400)
    out = io.BytesIO()
    Image.fromarray(render(class_of(photo_id), years, (photo_id,), width, height)).save(out, "JPEG", quality=90)
    return out.getvalue()


# ---- a toy CLIP -------------------------------------------------------------------------------


def hand_features(picture: np.ndarray) -> np.ndarray:
    """float64 [63]: colour histogram 3 x 8, gradient orientations 4 x 8 (by quadrant), Hu moments 7."""
    small = np.asarray(Image.fromarray(picture).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    colour = np.bincount(((small >> 5) + _CHANNEL).ravel(), minlength=24) / _SIDE**2
    gray = small.astype(np.float64).mean(-1)
    gy, gx = np.gradient(gray)
    angle = np.mod(np.arctan2(gy, gx), 2 * np.pi)
    bins = np.minimum((angle * (8 / (2 * np.pi))).astype(np.intp), 7) + _QUADRANT
    orient = np.bincount(bins.ravel(), np.hypot(gx, gy).ravel(), minlength=32).reshape(4, 8)
    orient /= orient.sum(1, keepdims=True) + 1e-9
    return np.concatenate([2.0 * colour, orient.ravel(), _hu(gray)])


_SIDE = 32
_CHANNEL = np.array([0, 8, 16], np.uint8)
_QUADRANT = 16 * (np.arange(_SIDE) >= _SIDE // 2)[:, None] + 8 * (np.arange(_SIDE) >= _SIDE // 2)[None]


def _hu(gray: np.ndarray) -> np.ndarray:
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    weight = np.abs(gray - np.median(border))
    weight[weight <= 20] = 0.0
    place = np.arange(len(gray), dtype=np.float64)
    m00 = weight.sum() + 1e-9
    cx, cy = (weight.sum(0) * place).sum() / m00, (weight.sum(1) * place).sum() / m00
    x = np.stack([(place - cx) ** p for p in range(4)])
    y = np.stack([(place - cy) ** q for q in range(4)])
    mu = x @ weight.T @ y.T  # [p, q]

    def eta(p: int, q: int) -> float:
        return float(mu[p, q] / m00 ** (1 + (p + q) / 2))

    n20, n02, n11, n30, n12, n21, n03 = eta(2, 0), eta(0, 2), eta(1, 1), eta(3, 0), eta(1, 2), eta(2, 1), eta(0, 3)
    moments = np.array([
        n20 + n02,
        (n20 - n02) ** 2 + 4 * n11**2,
        (n30 - 3 * n12) ** 2 + (3 * n21 - n03) ** 2,
        (n30 + n12) ** 2 + (n21 + n03) ** 2,
        (n30 - 3 * n12) * (n30 + n12) * ((n30 + n12) ** 2 - 3 * (n21 + n03) ** 2)
        + (3 * n21 - n03) * (n21 + n03) * (3 * (n30 + n12) ** 2 - (n21 + n03) ** 2),
        (n20 - n02) * ((n30 + n12) ** 2 - (n21 + n03) ** 2) + 4 * n11 * (n30 + n12) * (n21 + n03),
        (3 * n21 - n03) * (n30 + n12) * ((n30 + n12) ** 2 - 3 * (n21 + n03) ** 2)
        - (n30 - 3 * n12) * (n21 + n03) * (3 * (n30 + n12) ** 2 - (n21 + n03) ** 2),
    ])  # fmt: skip
    return np.sign(moments) * np.log1p(np.abs(moments) * 1e3)  # type: ignore[no-any-return]


class ToyClip:
    """Image and text tower with the interface of an embedder: raw features, not normalised."""

    name = "toy"
    weights = ""
    dim = TOY_DIM
    preprocess = "RGB, 32 x 32, hand features @ seeded projection"

    def __init__(self) -> None:
        self._projection = np.random.default_rng(2004).standard_normal((63, TOY_DIM)) / 8.0
        held_out = np.stack(
            [
                hand_features(render(shape, year + 0.5, ("held out", shape, year)))
                for shape in (*SHAPES, TEXTURE)
                for year in range(10)
            ]
        )
        self._centre, self._scale = held_out.mean(0), held_out.std(0) + 0.02

    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """float32 [N, 64]."""
        rows = np.stack([hand_features(np.asarray(picture.convert("RGB"))) for picture in pictures])
        rows = (rows - self._centre) / self._scale
        return (rows @ self._projection).astype(np.float32)

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """float32 [P, 64]: the mean picture of the class a prompt names, or a vector drawn from its words.

        :raises BadInput: beyond 77 words, as CLIP's context.
        """
        return np.stack([self._text(prompt) for prompt in prompts]).astype(np.float32)

    def _text(self, prompt: str) -> np.ndarray:
        words = prompt.lower().replace(",", " ").split()
        if len(words) > 77:
            raise BadInput(f"a prompt of {len(words)} words is longer than the context of 77", where=repr(prompt[:40]))
        named = [word for word in words if word in (*SHAPES, TEXTURE)]
        if not named:
            return _rng("words", *words).standard_normal(TOY_DIM)
        return np.mean([_word(word) for word in named], axis=0)  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def toy_clip() -> ToyClip:
    """The toy CLIP, made once."""
    return ToyClip()


@lru_cache(maxsize=16)
def _word(word: str) -> np.ndarray:
    pictures = [Image.fromarray(render(word, year / 3.0, ("held out", word, year))) for year in range(31)]
    rows = toy_clip().images(pictures).astype(np.float64)
    return np.mean(rows / np.linalg.norm(rows, axis=1, keepdims=True), axis=0)  # type: ignore[no-any-return]


# ---- toy-drift --------------------------------------------------------------------------------


def drift_arrays(settings: ToyDrift, seed: int) -> Mapping[str, np.ndarray]:
    """Feature vectors whose class means turn from bucket to bucket.

    :return: ``train_x`` float32 [B, n, D], ``train_y`` int64 [B, n], ``test_x``, ``test_y``.
    """
    rng = np.random.default_rng([seed, 49])
    C, D = settings.n_classes, settings.n_features
    e = rng.standard_normal((C, D))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    planes = np.linalg.qr(rng.standard_normal((C, D, 2)))[0]  # [C, D, 2], orthonormal u, v
    out: dict[str, list[np.ndarray]] = {name: [] for name in ("train_x", "train_y", "test_x", "test_y")}
    for b in range(settings.n_buckets):
        angle = settings.drift * b
        means = 1.2 * e + 2.0 * (math.cos(angle) * planes[..., 0] + math.sin(angle) * planes[..., 1])
        for side, n in (("train", settings.n_train), ("test", settings.n_test)):
            labels = np.repeat(np.arange(C), n)
            rows = means[labels] + settings.noise * rng.standard_normal((len(labels), D))
            order = rng.permutation(len(labels))
            out[f"{side}_x"].append(rows[order].astype(np.float32))
            out[f"{side}_y"].append(labels[order])
    return {name: np.stack(parts) for name, parts in out.items()}


def build_drift(settings: ToyDrift, resources: Resources) -> Stream:
    """Stream ``toy-drift``: buckets 1..B, a test set per bucket."""
    arrays = drift_arrays(settings, resources.seed)
    spec = {
        "vector": Field(shape=(settings.n_features,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=settings.n_classes),
    }
    classes = tuple(range(settings.n_classes))
    return _stream("clear:toy-drift", spec, "vector", arrays, tuple(f"class {c}" for c in classes), settings.protocol)


def build_pictures(settings: ToyPictures, resources: Resources) -> Stream:
    """Stream ``toy-pictures``: the six shapes, rendered over ten years."""
    C, side = len(SHAPES), settings.image_size
    out: dict[str, list[Any]] = {"train_x": [], "train_y": [], "test_x": [], "test_y": []}
    for b in range(settings.n_buckets):
        for part, n in (("train", settings.n_train), ("test", settings.n_test)):
            labels = np.repeat(np.arange(C), n)
            years = 10.0 * (b + resources.rng("toy-pictures", part, b).random(len(labels))) / settings.n_buckets
            out[f"{part}_x"].append(
                np.stack(
                    [
                        np.asarray(
                            Image.fromarray(render(SHAPES[c], year, (resources.seed, part, b, i))).resize((side, side))
                        )
                        for i, (c, year) in enumerate(zip(labels, years, strict=True))
                    ]
                )
            )
            out[f"{part}_y"].append(labels)
    arrays = {name: np.stack(parts) for name, parts in out.items()}
    spec = {
        "image": Field(shape=(side, side, 3), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=C),
    }
    return _stream("clear:toy-pictures", spec, "image", arrays, SHAPES, settings.protocol)


def _stream(
    name: str,
    spec: Mapping[str, Field],
    source: str,
    arrays: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    protocol: str,
) -> Stream:
    side = "train" if protocol == "streaming" else "test"
    test_x, test_y = arrays[f"{side}_x"], arrays[f"{side}_y"]
    n_buckets, n = test_y.shape
    stages = [
        Stage(
            index=b,
            name=str(b + 1),
            classes=tuple(range(len(class_names))) if b == 0 else (),
            train=ArraySamples(spec, {source: arrays["train_x"][b], "class": arrays["train_y"][b]}),
        )
        for b in range(n_buckets)
    ]
    test = ArraySamples(spec, {source: test_x.reshape(-1, *test_x.shape[2:]), "class": test_y.reshape(-1)})
    return Stream(
        name=name,
        task=f"{source} -> class",
        stages=stages,
        test=test,
        test_sets={str(b + 1): np.arange(b * n, (b + 1) * n) for b in range(n_buckets)},
        class_names=tuple(class_names),
        fingerprint=fingerprint(protocol, *arrays.values()),
        info={"protocol": protocol},
    )
