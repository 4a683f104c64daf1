"""Where images of old classes come from: a generator, a photo search, any folder.

A source knows image-level classes only and keeps nothing of past data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from attrs import define, field, frozen

from cl_kernel import Asset, BadInput, MissingAsset, Resources
from cl_plugin_recall.data import toy
from cl_plugin_recall.data.files import encode_jpeg, stems
from cl_plugin_recall.settings import FlickrReplay, FolderReplay, GanReplay

SUFFIXES = (".jpg", ".jpeg", ".png")


class Source(Protocol):
    """Images of a class, encoded."""

    name: str

    def images(self, c: int, class_name: str) -> Iterator[tuple[str, bytes]]:
        """(where it is from, JPEG or PNG bytes) of every image of class ``c``."""

    def digest(self, c: int, class_name: str) -> str:
        """Identifies the images of a class."""


@define
class FolderSource:
    """One folder a class, named ``03``, ``03_bird`` or ``bird``; or tfrecords ``03.tfrecord``."""

    root: Path
    name: str = "folder"
    per_class: int = 0
    _files: dict[int, list[Path]] = field(factory=dict, init=False)

    def _place(self, c: int, class_name: str) -> Path:
        if not self.root.is_dir():
            raise MissingAsset(
                f"replay folder for {self.name} is missing",
                where=str(self.root),
                fix="give --replay folder:PATH, a folder with one folder of images a class",
            )
        wanted = {f"{c:02d}", str(c), class_name.lower(), f"{c:02d}_{class_name.lower()}", f"{c}_{class_name.lower()}"}
        found = [
            place
            for place in sorted(self.root.iterdir())
            if place.is_dir() and (place.name.lower() in wanted or place.name.split("_", 1)[0] in (f"{c:02d}", str(c)))
        ]
        if (record := self.root / f"{c:02d}.tfrecord").is_file():
            return record
        if not found:
            have = ", ".join(sorted(p.name for p in self.root.iterdir())[:12]) or "nothing"
            raise MissingAsset(
                f"no replay images of class {c} ({class_name})",
                where=f"{self.root} (has {have})",
                fix=f"add a folder {c:02d}_{class_name} with JPEG images, or `clk recall make-replay`",
            )
        if len(found) > 1:
            raise BadInput(
                f"two folders claim class {c} ({class_name}): {found[0].name}, {found[1].name}", where=str(self.root)
            )
        return found[0]

    def check(self, classes: Mapping[int, str]) -> None:
        """Refuse a source that lacks a class before any training."""
        for c, class_name in classes.items():
            place = self._place(c, class_name)
            if place.is_dir() and not self.files(c, class_name):
                raise BadInput(f"folder holds no images of class {c} ({class_name})", where=str(place))

    def files(self, c: int, class_name: str) -> list[Path]:
        """Image files of a class, in order."""
        if c not in self._files:
            found = list(stems(self._place(c, class_name), SUFFIXES).values())
            self._files[c] = found[: self.per_class] if self.per_class else found
        return self._files[c]

    def images(self, c: int, class_name: str) -> Iterator[tuple[str, bytes]]:
        """Every image of a class."""
        place = self._place(c, class_name)
        if place.suffix == ".tfrecord":
            from cl_plugin_recall.data.records import RecordSamples

            samples = RecordSamples((place,), {})
            for row in range(min(len(samples), self.per_class or len(samples))):
                yield samples.where(row), samples.encoded(row)[0]
            return
        for path in self.files(c, class_name):
            yield str(path), path.read_bytes()

    def digest(self, c: int, class_name: str) -> str:
        """Digest of the image bytes."""
        digest = hashlib.sha256()
        for _, data in self.images(c, class_name):
            digest.update(data)
        return digest.hexdigest()[:20]


@frozen
class GeneratedSource:
    """Images drawn from a TF-Hub generator, kept in the cache.

    :param mapping: generator class of each class.
    """

    module: Path
    mapping: Mapping[int, int]
    settings: GanReplay
    resources: Resources
    name: str = "gan"

    def _inputs(self, c: int) -> dict[str, Any]:
        return {
            "module": folder_digest(self.module, graph=not self.settings.stand_in),
            "class": self.mapping[c],
            "n": self.settings.per_class,
            "seed": self.resources.seed,
            "truncation": self.settings.truncation,
            "batch": self.settings.batch,
        }

    def check(self, classes: Mapping[int, str]) -> None:
        """Refuse a mapping that lacks a class."""
        for c, class_name in classes.items():
            if c not in self.mapping:
                raise BadInput(
                    f"class mapping names no generator class for {c} ({class_name})",
                    where="replay.mapping",
                    fix="clk recall map-classes writes one",
                )

    def folder(self, c: int) -> Path:
        """The folder of generated images of a class, made if need be."""
        made = self.resources.artefact("recall-generated", images=self._inputs(c))
        return made.make(lambda place: self._generate(place, c))

    def _generate(self, place: Path, c: int) -> None:
        generator = loaded_generator(self.module)
        rng = self.resources.rng("recall gan", self.mapping[c])
        for k, image in enumerate(generate(generator, self.mapping[c], self.settings, rng)):
            (place / f"{k:03d}.jpg").write_bytes(encode_jpeg(image, 90))

    def images(self, c: int, class_name: str) -> Iterator[tuple[str, bytes]]:
        """Every image of a class."""
        for path in stems(self.folder(c), SUFFIXES).values():
            yield str(path), path.read_bytes()

    def digest(self, c: int, class_name: str) -> str:
        """What the images follow from."""
        return hashlib.sha256(repr(sorted(self._inputs(c).items())).encode()).hexdigest()[:20]


_LOADED: dict[Path, Any] = {}


def loaded_generator(module: Path) -> Any:
    """The generator of a folder, loaded once a process."""
    from cl_plugin_recall.network.hub import load_generator

    if module not in _LOADED:
        _LOADED[module] = load_generator(module)
    return _LOADED[module]


def generate(generator: Any, class_id: int, settings: GanReplay, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """``settings.per_class`` images uint8 [H, W, 3] of a generator class."""
    from cl_plugin_recall.data.images import generated_to_uint8
    from cl_plugin_recall.network.hub import truncated_normal

    if not 0 <= class_id < generator.n_classes:
        raise BadInput(f"generator class {class_id} is outside 0..{generator.n_classes - 1}", where="replay.mapping")
    left = settings.per_class
    while left:
        n = min(settings.batch, left)
        z = truncated_normal(rng, (n, generator.depth), settings.truncation)
        yield from generated_to_uint8(generator.images(z, np.full(n, class_id), settings.truncation))
        left -= n


@lru_cache
def folder_digest(folder: Path, *, graph: bool = True) -> str:
    """Digest of what a module's files hold.

    :param graph: whether ``saved_model.pb`` counts; TensorFlow writes the same function differently each time.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ("inputs.json", "fingerprint.pb")):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size if graph else 0}".encode())
        if graph or path.suffix != ".pb":
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:20]


def build_gan(settings: GanReplay, resources: Resources) -> Source:
    """Source ``gan``: a local TF-Hub module with a class mapping, ready images below a data root, or the toy data."""
    if settings.module:
        if not settings.mapping:
            raise MissingAsset(
                f"replay.module = {settings.module} is given, and nothing maps its classes to the data's",
                where="replay.mapping",
                fix="clk recall map-classes --output map.json, then --set replay.mapping=map.json",
            )
        from cl_plugin_recall.method.mapping import read_mapping

        return GeneratedSource(Path(settings.module), read_mapping(Path(settings.mapping)), settings, resources)
    if settings.stand_in:
        made = resources.artefact("recall-standin-generator", tensorflow=_tensorflow_version())
        module = made.make(toy.export_generator)
        mapping = {c: toy.generator_class(c) for c in range(1, len(toy.CLASSES) + 1)}
        return GeneratedSource(module, mapping, settings, resources)
    return _ready(
        "gan",
        settings.per_class,
        resources,
        "make them with `clk recall make-replay gan`, or give replay.module and replay.mapping",
    )


def build_flickr(settings: FlickrReplay, resources: Resources) -> Source:
    """Source ``flickr``: downloaded photos in class folders, or the toy data's."""
    if settings.folder:
        return FolderSource(Path(settings.folder).expanduser(), "flickr", settings.per_class)
    if settings.stand_in:
        n, seed = settings.per_class, resources.seed
        made = resources.artefact("recall-standin-photos", revision=2, per_class=n, seed=seed)
        folder = made.make(lambda place: toy.write_photos(place, n, seed=seed))
        return FolderSource(folder, "flickr", settings.per_class)
    return _ready("flickr", settings.per_class, resources, "download them with `clk recall make-replay flickr`")


def build_folder(settings: FolderReplay, resources: Resources) -> Source:
    """Source ``folder``: any images sorted by class."""
    if not settings.path:
        raise MissingAsset("no folder of replay images given", where="--replay folder", fix="--replay folder:PATH")
    source = FolderSource(Path(settings.path).expanduser(), "folder", settings.per_class)
    if not source.root.is_dir():
        raise MissingAsset("replay folder does not exist", where=str(source.root), fix="--replay folder:PATH")
    return source


def _ready(name: str, per_class: int, resources: Resources, fix: str) -> FolderSource:
    asset = Asset(
        name=f"replay_images/{name}",
        summary=f"replay images of source {name}, one folder or tfrecord a class",
        origin=fix,
    )
    for root in resources.roots:
        for place in (root / "replay_images" / name, root / "data" / "replay_images" / name):
            if place.is_dir():
                return FolderSource(place, name, per_class)
    looked = ", ".join(str(root) for root in resources.roots) or "no data root given"
    raise MissingAsset(f"{asset.summary}: none found", where=f"replay_images/{name} below {looked}", fix=fix)


def _tensorflow_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for name in ("tensorflow", "tensorflow-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "none"


def check_source(source: Any, classes: Mapping[int, str]) -> None:
    """Refuse a source that cannot give a class, before training; sources without a check pass.

    :param classes: the data's class number -> name.
    """
    if check := getattr(source, "check", None):
        check(classes)
