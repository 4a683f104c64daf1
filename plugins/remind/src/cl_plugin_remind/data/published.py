"""``clk data prepare remind:clevr|tdiuc``: from the published folders to questions and image codes.

Three steps, each left alone when what it is made from did not change: annotations, image features, codes. The features
go on where they were stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from cl_kernel import Asset, BadInput, Identity, MissingAsset, Resources, write_json
from cl_kernel.torch.device import resolve
from cl_plugin_remind.data import features, prepare
from cl_plugin_remind.data.places import ARCHIVES, raw_folder
from cl_plugin_remind.settings import Questions

_log = logging.getLogger(__name__)
STEPS = "made.json"
ANNOTATIONS = {"clevr": "questions", "tdiuc": "Annotations"}
"""The folder by which each data set is recognised."""
ORIGIN = {
    "clevr": "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
    "tdiuc": "https://kushalkafle.com/projects/tdiuc.html (TDIUC.zip and the images)",
}


def clevr(settings: Questions, resources: Resources) -> Path:
    """CLEVR from ``CLEVR_v1.0/``."""
    return _prepared("clevr", settings, resources)


def tdiuc(settings: Questions, resources: Resources) -> Path:
    """TDIUC from ``TDIUC/``."""
    return _prepared("tdiuc", settings, resources)


def weights_asset(name: str) -> Asset:
    """Torchvision's ImageNet weights of the network that sees the images."""
    network = features.DEFAULTS[name][0]
    file = features.WEIGHTS[network]
    return Asset(
        name="torchvision",
        summary=f"{network} weights of torchvision (IMAGENET1K_V1)",
        files=(file,),
        origin=f"https://download.pytorch.org/models/{file}",
    )


def _prepared(name: str, settings: Questions, resources: Resources) -> Path:
    """:raises MissingAsset: for files that are not there. :raises BadInput: for questions about images that are not."""
    root = _root(name, resources)
    folder = Path(settings.folder).expanduser() if settings.folder else root / "prepared"
    network, weights = features.DEFAULTS[name][0], _weights(name, resources)
    images = features.image_files(name, root)
    annotations = resources.identify(f"remind-{name}-questions", source=root / ANNOTATIONS[name])

    def questions() -> None:
        sizes = prepare.prepare(name, root, folder)
        _log.info("%s", ", ".join(f"{file}: {count:,} questions" for file, count in sizes.items()))

    _step(folder, "questions", annotations, folder / f"LUT_{name}.json", questions)
    features.check_images(name, folder, images)
    pictures = resources.files.digests([path for _, path in images])
    seen = resources.identify(
        f"remind-{name}-features",
        images=dict(zip(map(str, (iid for iid, _ in images)), pictures, strict=True)),
        network=network,
        weights=weights,
    )

    def extract() -> None:
        features.extract(
            name,
            root,
            folder,
            weights=str(weights),
            device=resolve(resources.device),
            n_workers=resources.n_workers,
            made_from=str(seen),
        )

    _step(folder, "features", seen, folder / f"{features.DEFAULTS[name][2]}.h5", extract)
    codes = resources.identify(
        f"remind-{name}-codes",
        questions=annotations,
        features=seen,
        order=settings.order,
        sizes=[settings.codebooks, settings.codebook_size],
        images=settings.pq_images,
    )
    _step(
        folder,
        f"codes {settings.order}",
        codes,
        folder / f"codes_{settings.order}.h5",
        lambda: features.encode(name, folder, settings),
    )
    return folder


def _root(name: str, resources: Resources) -> Path:
    for root in resources.roots:
        place = raw_folder(name, root)
        if (place / ANNOTATIONS[name]).is_dir():
            return place
    archives = [root / f"{ARCHIVES[name]}.zip" for root in resources.roots]
    packed = next((path for path in archives if path.is_file()), None)
    raise MissingAsset(
        f"no folder {ARCHIVES[name]} with {ANNOTATIONS[name]}/ in it",
        where=", ".join(map(str, resources.roots)) or "no data root given",
        fix=f"unpack {packed}" if packed else f"fetch {ORIGIN[name]}, unpack it, and pass --data-root DIR",
    )


def _weights(name: str, resources: Resources) -> Path:
    asset = weights_asset(name)
    for root in resources.roots:
        if (path := root / asset.files[0]).is_file():
            return path
    return resources.locate(asset) / asset.files[0]


def _step(folder: Path, step: str, identity: Identity, target: Path, make: Callable[[], object]) -> None:
    """Do a step unless ``target`` was made from the same; what was done is kept in ``made.json``."""
    record = folder / STEPS
    try:
        done = json.loads(record.read_text()) if record.is_file() else {}
    except ValueError as error:
        raise BadInput(
            f"the record of what was prepared is damaged: {error}", where=str(record), fix="remove it"
        ) from error
    if done.get(step) == str(identity) and target.is_file():
        _log.info("%s: there already", step)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, {name: key for name, key in done.items() if name != step})
    make()
    write_json(record, {**done, step: str(identity)})
