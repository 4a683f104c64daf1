"""``clk recall make-replay`` and ``clk recall map-classes``: replay images and the class mapping."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import BadInput, BadSetting, Cache, Resources, default_cache, identify, record, recorded, same_or_refuse
from cl_plugin_recall.experiments import VOC_CLASSES
from cl_plugin_recall.settings import GanReplay, Shapes, Voc

Handler = Callable[[Namespace, Any], int]


def make_replay(parser: ArgumentParser) -> Handler:
    """Make the images of a replay source: OUTPUT/01 ... OUTPUT/20."""
    parser.add_argument("source", choices=("gan", "flickr", "folder"))
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="class folders go here")
    parser.add_argument("--classes", default="", help="class numbers, as 1-5,9 (default: all)")
    parser.add_argument(
        "--class-names", type=Path, default=None, metavar="classes.txt", help="class names, one a line (default: VOC's)"
    )
    parser.add_argument(
        "--n", type=int, default=0, help="images a class (default: 500 for gan, 1000 for flickr, all for folder)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tfrecord", action="store_true", help="also write OUTPUT/01.tfrecord, ...")
    gan = parser.add_argument_group("gan")
    gan.add_argument("--module", type=Path, default=None, help="TF-Hub folder of BigGAN-deep-512")
    gan.add_argument("--mapping", type=Path, default=None, help="JSON of map-classes")
    gan.add_argument("--truncation", type=float, default=1.0)
    flickr = parser.add_argument_group("flickr (key in the environment variable FLICKR_API_KEY)")
    flickr.add_argument("--licence", default="", help="Flickr licence ids to accept, as 4,5,7 (default: any)")
    flickr.add_argument(
        "--keyword", action="append", default=[], metavar="CLASS=TEXT", help="search text of a class; repeatable"
    )
    flickr.add_argument("--rate", type=float, default=1.0, help="requests a second at most")
    flickr.add_argument("--tries", type=int, default=5, help="attempts for answers 429 and 5xx")
    flickr.add_argument("--wait", type=float, default=2.0, help="seconds before the second attempt")
    flickr.add_argument("--endpoint", default="", help="another address of the search service")
    folder = parser.add_argument_group("folder")
    folder.add_argument("--input", type=Path, default=None, help="folder with one folder of images a class")

    def handle(namespace: Namespace, console: Any) -> int:
        names = _names(namespace.class_names)
        classes = _numbers(namespace.classes, len(names))
        maker = {"gan": _gan, "flickr": _flickr, "folder": _folder}[namespace.source]
        rows = maker(namespace, classes, names, console)
        if namespace.tfrecord:
            from cl_plugin_recall.data.files import pairs_of_folder_images
            from cl_plugin_recall.data.records import write_records

            for c in classes:
                write_records(
                    namespace.output / f"{c:02d}.tfrecord", pairs_of_folder_images(namespace.output / f"{c:02d}")
                )
        columns = list(rows[0])
        console.table(f"replay images in {namespace.output}", columns, [list(row.values()) for row in rows])
        console.json({"output": str(namespace.output), "classes": rows})
        return 0

    return handle


def _names(listing: Path | None) -> tuple[str, ...]:
    if listing is None:
        return VOC_CLASSES
    if not listing.is_file():
        raise BadInput("file of class names does not exist", where=str(listing))
    return tuple(line.strip() for line in listing.read_text().splitlines() if line.strip())


def _numbers(text: str, n: int) -> list[int]:
    if not text:
        return list(range(1, n + 1))
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.strip().isdigit() or (last and not last.strip().isdigit()):
            raise BadSetting(f"{part!r} is no class number", where="--classes", fix="--classes 1-5,9")
        found += range(int(first), int(last or first) + 1)
    if bad := [c for c in found if not 1 <= c <= n]:
        raise BadSetting(f"class {bad[0]} is outside 1..{n}", where="--classes")
    return found


def _ids(text: str, flag: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if bad := [part for part in parts if not part.isdigit()]:
        raise BadSetting(f"{bad[0]!r} is no number", where=flag, fix=f"{flag} 4,5,7")
    return [int(part) for part in parts]


def _overrides(texts: list[str], names: Sequence[str], classes: Sequence[int]) -> dict[int, int]:
    """``CLASS=ID`` by class number or name, several parted by commas."""
    found: dict[int, int] = {}
    for text in (part.strip() for given in texts for part in given.split(",")):
        name, _, number = (part.strip() for part in text.partition("="))
        c = names.index(name) + 1 if name in names else int(name) if name.isdigit() else 0
        if not number.isdigit() or not 1 <= c <= len(names):
            raise BadSetting(
                f"{text!r} is no CLASS=ID", where="--override", fix=f"--override 3=15, or --override {names[0]}=404"
            )
        if c not in classes:
            raise BadSetting(f"class {c} is not among --classes", where="--override")
        if found.get(c, int(number)) != int(number):
            raise BadSetting(f"class {c} is given twice", where="--override")
        found[c] = int(number)
    return found


def _gan(namespace: Namespace, classes: list[int], names: tuple[str, ...], console: Any) -> list[dict[str, Any]]:
    from cl_plugin_recall.data.files import encode_jpeg
    from cl_plugin_recall.method.mapping import read_mapping
    from cl_plugin_recall.method.sources import folder_digest, generate, loaded_generator

    if namespace.module is None or namespace.mapping is None:
        raise BadSetting(
            "a generator and a class mapping are needed",
            where="--module, --mapping",
            fix="clk recall map-classes --output map.json; clk recall make-replay gan --module DIR --mapping map.json",
        )
    mapping = read_mapping(namespace.mapping)
    if missing := [c for c in classes if c not in mapping]:
        raise BadInput(
            f"mapping names no generator class for class {missing[0]} ({names[missing[0] - 1]})",
            where=str(namespace.mapping),
        )
    generator = loaded_generator(namespace.module)
    settings = GanReplay(per_class=namespace.n or 500, truncation=namespace.truncation)
    rows = []
    for c in classes:
        place = namespace.output / f"{c:02d}"
        place.mkdir(parents=True, exist_ok=True)
        identity = identify(
            "recall-replay-gan",
            module=folder_digest(namespace.module),
            generator_class=mapping[c],
            n=settings.per_class,
            seed=namespace.seed,
            truncation=settings.truncation,
            batch=settings.batch,
        )
        have = len(list(place.glob("*.jpg")))
        made = recorded(place)
        if made is not None:
            same_or_refuse(
                made, identity, what=f"the images of class {c}", where=place, fix="give another --output, or remove it"
            )
        elif have:
            raise BadInput(
                f"{have} images that this command did not make, or did not finish",
                where=str(place),
                fix="give another --output, or remove the folder",
            )
        if have < settings.per_class:
            record(place, identity)
            rng = Resources(seed=namespace.seed).rng("recall gan", mapping[c])
            for k, image in enumerate(generate(generator, mapping[c], settings, rng)):
                _write(place / f"{k:03d}.jpg", encode_jpeg(image, 95))
            console.say(f"class {c} {names[c - 1]}: {settings.per_class} images of generator class {mapping[c]}")
        rows.append(
            {
                "class": c,
                "name": names[c - 1],
                "generator class": mapping[c],
                "images": settings.per_class,
                "already there": have,
            }
        )
    return rows


def _write(path: Path, data: bytes) -> None:
    from cl_kernel import atomic

    with atomic(path) as file:
        file.write(data)


def _flickr(namespace: Namespace, classes: list[int], names: tuple[str, ...], console: Any) -> list[dict[str, Any]]:
    from cl_plugin_recall.data import flickr

    key = flickr.api_key()
    http = flickr.Http(flickr.Limits(per_second=namespace.rate, tries=namespace.tries, wait_s=namespace.wait))
    texts = dict(part.partition("=")[::2] for part in namespace.keyword)
    if unknown := set(texts) - set(names):
        raise BadSetting(
            f"no class is called {sorted(unknown)[0]!r}", where="--keyword", fix="--keyword bird='wild bird'"
        )
    licences = _ids(namespace.licence, "--licence")
    rows = []
    for c in classes:
        name = names[c - 1]
        keyword = texts.get(name, flickr.KEYWORDS.get(name, name))
        tally = flickr.download_class(
            http,
            key,
            namespace.output / f"{c:02d}",
            keyword,
            namespace.n or 1000,
            endpoint=namespace.endpoint or flickr.ENDPOINT,
            licences=licences,
        )
        for photo, why in tally.skipped.items():
            console.say(f"skipped photo {photo}: {why}")
        console.say(f"class {c} {name}: {tally.saved} new, {tally.kept} kept, {tally.gone} gone")
        rows.append(
            {
                "class": c,
                "name": name,
                "keyword": keyword,
                "saved": tally.saved,
                "kept": tally.kept,
                "gone": tally.gone,
                "twice": tally.twice,
                "broken": tally.broken,
            }
        )
    if http.retries:
        console.say(f"{http.retries} requests had to be repeated")
    return rows


def _folder(namespace: Namespace, classes: list[int], names: tuple[str, ...], console: Any) -> list[dict[str, Any]]:
    from cl_plugin_recall.data.files import encode_jpeg
    from cl_plugin_recall.data.images import decode_image
    from cl_plugin_recall.method.sources import FolderSource

    if namespace.input is None:
        raise BadSetting(
            "no folder of images given", where="--input", fix="clk recall make-replay folder --input DIR --output DIR"
        )
    source = FolderSource(namespace.input, "folder", namespace.n)
    source.check({c: names[c - 1] for c in classes})
    rows = []
    for c in classes:
        place = namespace.output / f"{c:02d}"
        place.mkdir(parents=True, exist_ok=True)
        n = skipped = 0
        for where, data in source.images(c, names[c - 1]):
            try:
                image = decode_image(data, where)
            except BadInput as error:
                console.say(f"skipped {error.where}: {error.what}")
                skipped += 1
                continue
            _write(place / f"{n:04d}.jpg", data if data[:2] == b"\xff\xd8" else encode_jpeg(image, 95))
            n += 1
        rows.append({"class": c, "name": names[c - 1], "images": n, "skipped": skipped})
    return rows


def map_classes(parser: ArgumentParser) -> Handler:
    """Find the generator class that stands for each class: mean confidence of a classifier over the training images."""
    parser.add_argument(
        "--classifier",
        type=Path,
        default=None,
        help="TF-Hub folder of EfficientNet-B2; without it and data, the toy data's",
    )
    parser.add_argument(
        "--data-root", action="append", default=[], metavar="DIR", help="where the training images lie (VOC layout)"
    )
    parser.add_argument("--train-list", default="")
    parser.add_argument(
        "--override", action="append", default=[], metavar="CLASS=ID", help="fix a generator class by hand; repeatable"
    )
    parser.add_argument("--exclude", default="", metavar="IDS", help="generator classes never chosen, as 5,7")
    parser.add_argument("--classes", default="", help="only these, as in an incremental setting: 16 or 16-20")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_plugin_recall.data import toy
        from cl_plugin_recall.method import mapping as maps
        from cl_plugin_recall.network.hub import load_classifier

        resources = Resources(
            roots=tuple(Path(root).resolve() for root in namespace.data_root), cache=Cache(default_cache())
        )
        toy_data = not namespace.data_root
        if toy_data:
            names, images = toy.CLASSES, _toy_images(resources)
            folder = namespace.classifier or resources.artefact("recall-standin-classifier").make(toy.export_classifier)
        else:
            if namespace.classifier is None:
                raise BadSetting(
                    "a classifier is needed", where="--classifier", fix="the TF-Hub folder of EfficientNet-B2"
                )
            names, images = _voc_images(resources, namespace.train_list)
            folder = namespace.classifier
        classes = _numbers(namespace.classes, len(names))
        override = _overrides(namespace.override, names, classes)
        exclude = _ids(namespace.exclude, "--exclude")
        found = maps.map_classes(
            images,
            load_classifier(folder),
            classes,
            [names[c - 1] for c in classes],
            override=override,
            exclude=exclude,
        )
        namespace.output.parent.mkdir(parents=True, exist_ok=True)
        maps.write_mapping(namespace.output, found)
        best = maps.top(found)
        console.table(
            "class mapping",
            ("class", "name", "images", "generator class", "top 5 (mean confidence)"),
            [
                (c, name, n, found.chosen[c], ", ".join(f"{g} {p:.2f}" for g, p in best[c]))
                for c, name, n in zip(found.classes, found.names, found.counts, strict=True)
            ],
        )
        for g, users in maps.shared(found).items():
            console.say(
                f"generator class {g} stands for classes {', '.join(map(str, users))}; use --override or --exclude"
            )
        console.json(json.loads(namespace.output.read_text()))
        return 0

    return handle


def _toy_images(resources: Resources) -> Iterator[tuple[np.ndarray, list[int]]]:
    from cl_plugin_recall.data import toy
    from cl_plugin_recall.data.files import decode_png
    from cl_plugin_recall.data.images import decode_image

    train, _ = toy.images(Shapes(n_val=1), resources.rng("recall stand-in"))
    for row, (jpeg, png) in enumerate(train):
        yield decode_image(jpeg, f"toy image {row}"), _shown(decode_png(png))


def _voc_images(resources: Resources, listing: str) -> tuple[tuple[str, ...], Iterator[tuple[np.ndarray, list[int]]]]:
    from cl_plugin_recall.data.images import decode_image
    from cl_plugin_recall.data.voc import locate

    folder = locate(Voc(), resources)
    pairs = folder.pairs(folder.training_list(listing))

    def images() -> Iterator[tuple[np.ndarray, list[int]]]:
        for row in range(len(pairs)):
            yield decode_image(pairs.image(row), pairs.where(row)), _shown(pairs.mask(row))

    return folder.classes(), images()


def _shown(mask: np.ndarray) -> list[int]:
    return [int(c) for c in np.unique(mask) if c not in (0, 255)]
