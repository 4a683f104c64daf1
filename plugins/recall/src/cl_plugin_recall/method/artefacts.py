"""Artefacts that outlive a run: step-0 models, helpers, pseudo-labels, inpainted labels.

Each is told by everything it depends on: settings, data and weights (see the kernel's identities). The reference's
indexed names are labels inside the folders; the same index with other values is another artefact, and is said so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cl_kernel import Artefact, Samples, Stage, StreamContext, counted, save_tree, write_json
from cl_plugin_recall.data.files import encode_jpeg, encode_png, record_fields
from cl_plugin_recall.data.images import decode_image
from cl_plugin_recall.data.records import RecordSamples, write_records
from cl_plugin_recall.evaluate.palette import colourise
from cl_plugin_recall.method.labels import Predictor, inpaint
from cl_plugin_recall.method.parts import Learning
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.weights.names import class_ids
from cl_plugin_recall.weights.providers import digest

AT_ONCE = 32


def first_model(learner: Learning, stage: Stage) -> Artefact:
    """The step-0 model. Tests and methods with the same first classes and schedule share it."""
    return learner.resources.artefact(
        "recall-first",
        revision=2,
        settings=counted(learner.settings, "first"),
        stage=stage,
        classes=stage.classes,
        network=learner.network.fingerprint,
        outputs=learner.network.n_outputs,
        seed=learner.resources.seed,
    )


def save_first(learner: Learning, place: Path) -> None:
    """The step-0 model, with the reference's name beside it."""
    save_tree(place / "weights.tree", {"encoder": learner.encoder.values(), "decoder": learner.decoder.values()})
    s = learner.settings
    write_json(
        place / "name.json",
        {"name": f"P{s.parameters_common_index}.{s.parameters_first_step_index}_E{learner.sizes[0]}"},
    )


def warn_of_reused_index(learner: Learning, ctx: StreamContext, artefact: Artefact) -> None:
    """Say when an index was used before with other values."""
    s = learner.settings
    name = f"P{s.parameters_common_index}.{s.parameters_first_step_index}"
    here = json.loads(json.dumps(artefact.identity.plain()))["settings"]
    for sidecar in sorted((ctx.cache.root / "recall-first").glob("*/inputs.json")):
        label = sidecar.with_name("name.json")
        there = json.loads(sidecar.read_text()).get("settings", {})
        if not label.is_file() or json.loads(label.read_text())["name"].split("_")[0] != name:
            continue
        if changed := sorted(key for key in here if key in there and there[key] != here[key]):
            ctx.note(f"index {name} was used before with other values of {', '.join(changed)}; both are kept")
            return


def helper(learner: Learning, stage: Stage, group: Sequence[int], images: Samples) -> Artefact:
    """A helper's weights."""
    return learner.resources.artefact(
        "recall-helper",
        revision=2,
        settings=counted(learner.settings, "helper"),
        stage=stage.index,
        encoder=learner.frozen_digest(),
        classes=list(group),
        images=images,
        network=learner.network.fingerprint,
        seed=learner.resources.seed,
    )


# ---- labels -----------------------------------------------------------------------------------------


def pseudo_labelled(learner: Learning, c: int, decoder: Decoder, back: np.ndarray, ctx: StreamContext) -> Samples:
    """Replay images of class ``c`` with predicted labels, as a tfrecord in the cache; every n-th also as pictures.

    The image's class does not filter the labels, and they are never refreshed.
    """
    settings, source = learner.settings, learner.source
    name, number = learner.stream.class_names[c], learner.number_of(c)
    n_first = learner.sizes[0]
    helped = 0 if c <= n_first else decoder.n_outputs - 1
    stem = (
        f"P{settings.parameters_common_index}.{settings.parameters_first_step_index}.{settings.parameters_helper_index}"
        f"_E{n_first}_H{helped}_C{c}_{source.name}"
    )
    artefact = learner.resources.artefact(
        "recall-labels",
        revision=2,
        settings=counted(settings, "labels"),
        images=source.digest(number, name),
        encoder=learner.frozen_digest(),
        decoder=digest(decoder.values()),
        labels=back,
        network=learner.network.fingerprint,
        named=stem if settings.debug_every else "",
    )

    def make(place: Path) -> None:
        ctx.phase(f"label replay {name}")
        predictor = learner.predictor(decoder, raw=settings.legacy_replay_preproc)
        write_records(place / "labelled.tfrecord", _labelled(learner, c, name, predictor, back, place / "debug" / stem))
        write_json(place / "name.json", {"name": stem})

    return RecordSamples((artefact.make(make) / "labelled.tfrecord",), record_fields(learner.stream.n_classes))


def _labelled(
    learner: Learning, c: int, name: str, predictor: Predictor, back: np.ndarray, debug: Path
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

    for where, data in learner.source.images(learner.number_of(c), name):
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


def inpainted(learner: Learning, stage: Stage, before: Decoder, ctx: StreamContext) -> Samples:
    """The step's images with inpainted background, as a tfrecord in the cache.

    Kept by the weights that predicted, so another test, source or step never gets these labels.
    """
    settings = learner.settings
    artefact = learner.resources.artefact(
        "recall-inpainted",
        revision=2,
        settings=counted(settings, "inpainting"),
        images=stage.train,
        encoder=learner.frozen_digest(),
        decoder=digest(before.values()),
        network=learner.network.fingerprint,
    )

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

    return RecordSamples((artefact.make(make) / "mixed.tfrecord",), record_fields(learner.stream.n_classes))
