"""Artefacts that outlive a run: step-0 models, helpers, pseudo-labels, inpainted labels (spec 7.4).

Each is kept by a hash of everything it depends on: section values, data and weights. The reference's indexed names
are labels inside the folders; the same index with other values is another artefact, and is said so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cl_kernel import Samples, Stage, StreamContext, fingerprint, save_tree, write_json
from cl_plugin_recall.data.files import encode_jpeg, encode_png, record_fields
from cl_plugin_recall.data.images import decode_image
from cl_plugin_recall.data.records import RecordSamples, write_records
from cl_plugin_recall.evaluate.palette import colourise
from cl_plugin_recall.model import Decoder
from cl_plugin_recall.replay.labels import Predictor, inpaint
from cl_plugin_recall.weights.names import class_ids
from cl_plugin_recall.weights.providers import digest

if TYPE_CHECKING:
    from cl_plugin_recall.train import RecallLearner

RECIPE = 1
"""Raised when the code changes what an artefact contains."""

COMMON = (
    "batch_size",
    "train_image_size",
    "momentum",
    "start_decay_step",
    "decay_power",
    "l2_decay",
    "optimiser",
    "lr_floor",
    "augment_scale",
    "legacy_batching",
)
FIRST = ("lr_initial_value", "lr_final_value", "training_steps_per_class", "decay_steps_per_class")
HELPER = (
    "lr_final_value",
    "lr_initial_value_helper",
    "lr_final_value_helper",
    "training_steps_per_class_helper",
    "decay_steps_per_class_helper",
    "helper_ignore_void",
)
AT_ONCE = 32


def _section(learner: RecallLearner, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(learner.settings, name) for name in names}


def _rows(samples: Samples) -> str:
    """Digest of which images samples are: rows of the stream's data, and their label table."""
    base: Any = samples
    parts: list[Any] = []
    while (rows := getattr(base, "rows", None)) is not None:
        parts.append(np.asarray(rows))
        if (table := getattr(base, "table", None)) is not None:
            parts.append(table)
        base = base.base
    return fingerprint(len(samples), *parts)


def first_inputs(learner: RecallLearner, stage: Stage) -> dict[str, Any]:
    """Everything the step-0 model depends on. Tests with the same first classes share it."""
    return {
        "recipe": RECIPE,
        "seed": learner.resources.seed,
        "data": learner.stream.fingerprint,
        "images": _rows(stage.train),
        "classes": list(stage.classes),
        "network": learner.network.fingerprint,
        "outputs": learner.network.n_outputs,
        "common": _section(learner, COMMON),
        "first": _section(learner, FIRST),
        "devices": learner.settings.devices,
    }


def save_first(learner: RecallLearner, place: Path) -> None:
    """The step-0 model, with the reference's name beside it."""
    save_tree(place / "weights.tree", {"encoder": learner.encoder.values(), "decoder": learner.decoder.values()})
    s = learner.settings
    write_json(
        place / "name.json",
        {"name": f"P{s.parameters_common_index}.{s.parameters_first_step_index}_E{learner.sizes[0]}"},
    )


def warn_of_reused_index(learner: RecallLearner, ctx: StreamContext, inputs: dict[str, Any]) -> None:
    """Say when an index was used before with other values."""
    s = learner.settings
    name = f"P{s.parameters_common_index}.{s.parameters_first_step_index}"
    here = {key: json.loads(json.dumps(inputs[key])) for key in ("common", "first")}
    for sidecar in sorted((ctx.cache.root / "recall-first").glob("*/inputs.json")):
        label = (
            json.loads((sidecar.parent / "name.json").read_text())["name"]
            if (sidecar.parent / "name.json").is_file()
            else ""
        )
        there = json.loads(sidecar.read_text())
        if label.split("_")[0] == name and any(there.get(key) != here[key] for key in here):
            changed = sorted(k for key in here for k in here[key] if there.get(key, {}).get(k) != here[key][k])
            ctx.note(f"index {name} was used before with other values of {', '.join(changed)}; both are kept")
            return


def helper_inputs(learner: RecallLearner, stage: Stage, group: Sequence[int], images: Samples) -> dict[str, Any]:
    """Everything a helper depends on."""
    return {
        "recipe": RECIPE,
        "seed": learner.resources.seed,
        "stage": stage.index,
        "encoder": learner.frozen_digest(),
        "classes": list(group),
        "data": learner.stream.fingerprint,
        "images": _rows(images),
        "network": learner.network.fingerprint,
        "common": _section(learner, COMMON),
        "helper": _section(learner, HELPER),
    }


# ---- labels -----------------------------------------------------------------------------------------


def pseudo_labelled(learner: RecallLearner, c: int, decoder: Decoder, back: np.ndarray, ctx: StreamContext) -> Samples:
    """Replay images of class ``c`` with predicted labels, as a tfrecord in the cache; every n-th also as pictures.

    The image's class does not filter the labels, and they are never refreshed (spec 2.7).
    """
    settings, source = learner.settings, learner.source
    name = learner.stream.class_names[c]
    n_first = learner.sizes[0]
    helped = 0 if c <= n_first else decoder.n_outputs - 1
    stem = (
        f"P{settings.parameters_common_index}.{settings.parameters_first_step_index}.{settings.parameters_helper_index}"
        f"_E{n_first}_H{helped}_C{c}_{source.name}"
    )
    inputs = {
        "recipe": RECIPE,
        "class": c,
        "source": source.digest(c, name),
        "encoder": learner.frozen_digest(),
        "decoder": digest(decoder.values()),
        "back": back.tolist(),
        "raw": settings.legacy_replay_preproc,
        "jpeg": settings.legacy_jpeg,
        "network": learner.network.fingerprint,
        "debug": settings.debug_every,
    }

    def make(place: Path) -> None:
        ctx.phase(f"label replay {name}")
        predictor = learner.predictor(decoder, raw=settings.legacy_replay_preproc)
        write_records(place / "labelled.tfrecord", _labelled(learner, c, name, predictor, back, place / "debug" / stem))
        write_json(place / "name.json", {"name": stem})

    folder = ctx.cache.make("recall-labels", inputs, make)
    return RecordSamples((folder / "labelled.tfrecord",), record_fields(learner.stream.n_classes))


def _labelled(
    learner: RecallLearner, c: int, name: str, predictor: Predictor, back: np.ndarray, debug: Path
) -> Iterator[tuple[bytes, bytes]]:
    settings = learner.settings
    waiting: list[tuple[bytes, np.ndarray]] = []
    count = 0

    def flush() -> Iterator[tuple[bytes, bytes]]:
        nonlocal count
        for (data, image), label in zip(waiting, predictor.arrays([image for _, image in waiting]), strict=True):
            label = back[label]
            if settings.debug_every and count % settings.debug_every == 0:
                for kind, picture in (("images", image), ("labels", label), ("rgb_labels", colourise(label))):
                    (debug / kind).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(debug / kind / f"{count:04d}.png")
            count += 1
            yield data, encode_png(label)
        waiting.clear()

    for where, data in learner.source.images(c, name):
        try:
            image = decode_image(data, where)
        except Exception as error:
            learner.resources.bad_sample(where, error)
            continue
        if settings.legacy_jpeg:
            data = encode_jpeg(image, 75)
        elif data[:2] != b"\xff\xd8":
            data = encode_jpeg(image, 95)
        waiting.append((data, image))
        if len(waiting) == AT_ONCE:
            yield from flush()
    yield from flush()


def inpainted(learner: RecallLearner, stage: Stage, before: Decoder, ctx: StreamContext) -> Samples:
    """The step's images with inpainted background, as a tfrecord in the cache (spec 2.6).

    Kept by the weights that predicted, so another test, source or step never gets these labels (pitfall 4).
    """
    settings = learner.settings
    inputs = {
        "recipe": RECIPE,
        "encoder": learner.frozen_digest(),
        "decoder": digest(before.values()),
        "data": learner.stream.fingerprint,
        "images": _rows(stage.train),
        "void": settings.inpaint_void,
        "jpeg": settings.legacy_jpeg,
        "network": learner.network.fingerprint,
    }

    def pairs() -> Iterator[tuple[bytes, bytes]]:
        predictor = learner.predictor(before)
        where = getattr(stage.train, "where", lambda row: f"{stage.name}, image {row}")
        for start in range(0, len(stage.train), AT_ONCE):
            rows = np.arange(start, min(start + AT_ONCE, len(stage.train)))
            batch = stage.train.take(rows, ["image", "mask"])
            images = [
                decode_image(image, where(int(row))) if isinstance(image, bytes) else image
                for image, row in zip(batch["image"], rows, strict=True)
            ]
            for image, data, mask, predicted in zip(
                images, batch["image"], batch["mask"], predictor.arrays(images), strict=True
            ):
                kept = (
                    data
                    if isinstance(data, bytes) and not settings.legacy_jpeg
                    else encode_jpeg(image, 75 if settings.legacy_jpeg else 95)
                )
                yield kept, encode_png(inpaint(mask, predicted, void_too=settings.inpaint_void))

    def make(place: Path) -> None:
        ctx.phase(f"inpaint {stage.name}")
        write_records(place / "mixed.tfrecord", pairs())
        index = ".".join(
            str(getattr(settings, f"parameters_{part}_index"))
            for part in ("common", "first_step", "helper", "incremental")
        )
        write_json(
            place / "name.json", {"name": f"train_{stage.info.get('protocol')}_{class_ids(stage.classes)}_P{index}"}
        )

    folder = ctx.cache.make("recall-inpainted", inputs, make)
    return RecordSamples((folder / "mixed.tfrecord",), record_fields(learner.stream.n_classes))
