"""One small world for the README's checklist: a release, its pictures on a local server, and what grows from them.

A stage is a folder that holds what a person has at that point, under the names that the README gives it
(``RAW``, ``STORE``, ``NAME``, ``CLEAN``); each is made once, from the stage before, when it is asked for.
"""

from __future__ import annotations

import bz2
import functools
import http.server
import json
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from attrs import define, field
from PIL import Image

from cl_kernel.cli.main import main
from cl_plugin_clear.curation.concepts import CLEAR10, Concepts, write_concepts
from cl_plugin_clear.curation.records import SQLITE_COLUMNS, derived_hash
from cl_plugin_clear.curation.store import Store
from cl_plugin_clear.data import toy
from cl_plugin_clear.data.members import members_of

from .conftest import as_original, verified

N = 500
"""Records of the release."""
SIZE = 4
"""Pictures a class and bucket."""
GROUP = ("a disc", "a ring")
LABELS = {"a disc": "disc", "a ring": "ring"}
LIMITS = "--min-edge 50 --max-aspect-ratio 2 --retry-wait 0"


class Host(http.server.SimpleHTTPRequestHandler):
    """``/photos/ID/STAMP`` is a picture of the toy world; everything else a file or a listing of the folder."""

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if not self.path.startswith("/photos/"):
            super().do_GET()
            return
        body = toy.answer(self.path.replace("/photos/", "toy://"))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a local server of pictures and of this folder."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Host, directory=folder)) as httpd:
        httpd.daemon_threads = True
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def clear(place: Path, line: str) -> None:
    """One command, with the words STORE, NAME, ... as paths of the place."""
    words = [str(place / word) if word.isupper() or "." in word else word for word in line.split()]
    assert main(["clear", *words, "--json"]) == 0, line


@define
class World:
    """The stages, and the address of the local server."""

    base: Path
    address: str
    _made: dict[str, Path] = field(factory=dict)

    def at(self, stage: str) -> Path:
        """The folder of a stage; not to be changed."""
        if stage not in self._made:
            order = ("raw", "parsed", "embedded", "retrieved", "built", "judged")
            place = self.base / stage
            if number := order.index(stage):
                shutil.copytree(self.at(order[number - 1]), place)
            getattr(self, stage)(place)
            self._made[stage] = place
        return self._made[stage]

    def raw(self, place: Path) -> None:
        """Five text files whose addresses are the local server's."""
        toy.write_metadata(place / "RAW", N)
        rows = [row.split("\t") for row in (place / "RAW" / "yfcc100m_dataset").read_text().splitlines()]
        for row in rows:
            row[14] = row[14].replace("toy://", f"{self.address}/photos/")
        lines = ["\t".join(row) for row in rows]
        (place / "RAW" / "yfcc100m_dataset").write_text("\n".join(lines) + "\n")
        hashes = [f"{row[0]}\t{derived_hash(row[14])}" for row in rows]
        (place / "RAW" / "yfcc100m_hash").write_text("\n".join(hashes) + "\n")

    def parsed(self, place: Path) -> None:
        """Records, no picture."""
        clear(place, "metadata --root STORE --source RAW")

    def embedded(self, place: Path) -> None:
        """Pictures, eleven buckets, features."""
        clear(place, f"download --root STORE {LIMITS}")
        clear(place, "split --root STORE --buckets 11")
        clear(place, "embed --root STORE --model toy --threads 1")

    def retrieved(self, place: Path) -> None:
        """Two classes and a background."""
        (place / "MAP.json").write_text(json.dumps(LABELS))
        group(place / "G.json")
        clear(place, "retrieve --root STORE --concepts G.json --out NAME --label-map MAP.json")

    def built(self, place: Path) -> None:
        """The labelled folder."""
        clear(place, "build --root STORE --out NAME")

    def judged(self, place: Path) -> None:
        """People agree with all labels; the first pictures of each class are a cleaned folder."""
        verified(place / "NAME", place / "ANSWERS")
        clear(place, "collect --folder NAME --feedback ANSWERS --to CLEAN --num-imgs 2")


def group(path: Path) -> None:
    """The concept group of the world."""
    content = Concepts(
        name="T", group=GROUP, model="toy", class_size=SIZE, pool=4 * SIZE, background=True, negative_ratio=0.5
    )
    write_concepts(path, content)


def archives(raw: Path, place: Path) -> None:
    """The five files as they are published: one .tgz each."""
    place.mkdir()
    for path in raw.iterdir():
        with tarfile.open(place / f"{path.name}.tgz", "w:gz") as archive:
            archive.add(path, f"yfcc100m/{path.name}")


def other_forms(raw: Path, place: Path) -> None:
    """``FILE``, the SQLite release, and two bz2 parts of the dataset."""
    rows = (raw / "yfcc100m_dataset").read_text().splitlines()
    for number, part in enumerate((rows[: N // 2], rows[N // 2 :])):
        (place / f"part-{number}.bz2").write_bytes(bz2.compress(("\n".join(part) + "\n").encode()))
    with sqlite3.connect(place / "FILE") as connection:
        connection.execute(f"create table yfcc100m_dataset ({', '.join(SQLITE_COLUMNS)})")
        marks = ", ".join("?" * len(SQLITE_COLUMNS))
        connection.executemany(f"insert into yfcc100m_dataset values ({marks})", [row.split("\t") for row in rows])
    connection.close()


def old_download(place: Path) -> None:
    """``OLD``: the original's folder, with absolute paths of another machine."""
    (place / "OLD").mkdir()
    as_original(place / "STORE", place / "OLD", "/data3")


def votes(place: Path) -> None:
    """``FILE``: every picture voted a disc, twice; ``ETHICS``: the first picture flagged by one of two workers."""
    from cl_plugin_clear.curation.crowd import write_csv

    _, members = members_of(place / "NAME")
    answer = json.dumps([{"image": {"labels": ["disc"]}}])
    photos = [(p, b, label) for b, classes in members.items() for label, found in classes.items() for p in found]
    names = ("ID", "bucket_index", "query", "image_url")
    rows = [(*photo, "u", answer) for photo in photos for _ in range(2)]
    write_csv(place / "FILE", [*(f"Input.{name}" for name in names), "Answer.taskAnswers"], rows)
    said = [(photos[0][0], "Yes"), (photos[0][0], "No"), (photos[1][0], "No")]
    write_csv(place / "ETHICS", ["Input.ID", "Answer.image-contains.label"], said)


def two_sides(place: Path) -> None:
    """``FOLDER/train`` and ``FOLDER/val``, a sub-folder a class."""
    for side, bucket in (("train", 1), ("val", 2)):
        shutil.copytree(place / "NAME" / "labeled_images" / str(bucket), place / "FOLDER" / side)


def released(place: Path) -> None:
    """``DIR/clear10`` as its archive is: train and test, ten buckets, a picture and a moco_b0 vector each."""
    names = ["BACKGROUND", *sorted(CLEAR10)]
    draw = torch.Generator().manual_seed(0)
    means = torch.randn(len(names), 2048, generator=draw)
    for side, count in (("train", 4), ("test", 2)):
        folder = place / "DIR" / "clear10" / side
        folder.mkdir(parents=True)
        (folder / "class_names.txt").write_text("\n".join(names) + "\n")
        index: dict[str, dict[str, str]] = {}
        for bucket in range(1, 11):
            for label, name in enumerate(names):
                ids = [f"{1000 * bucket + 10 * label + i}{len(side)}" for i in range(count)]
                record = f"labeled_metadata/{bucket}/{name}.json"
                index.setdefault(str(bucket), {})[name] = record
                paths = {photo: f"labeled_images/{bucket}/{name}/{photo}.jpg" for photo in ids}
                for path in (folder / record, folder / paths[ids[0]], folder / f"features/moco_b0/{bucket}/{name}.pth"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                for path in paths.values():
                    Image.new("RGB", (8, 8), (20 * label, 0, 0)).save(folder / path)
                (folder / record).write_text(json.dumps({photo: {"IMG_PATH": path} for photo, path in paths.items()}))
                rows = means[label] + torch.randn(count, 2048, generator=draw)
                torch.save(dict(zip(ids, rows, strict=True)), folder / f"features/moco_b0/{bucket}/{name}.pth")
        (folder / "labeled_metadata.json").write_text(json.dumps(index))


SETUP = """
from pathlib import Path

import torch
from torchvision import models, transforms


def load_models(models_path):
    found = []
    for path in sorted(Path(models_path).glob("*.pth")):
        found.append(models.resnet18(num_classes=1000))
        found[-1].load_state_dict(torch.load(path, weights_only=True))
    return found


def data_transform():
    return transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor()])
"""


def kit(place: Path) -> None:
    """``DIR``: saved networks of the challenge, ``FOLDER``: labelled pictures, and an own ``evaluation_setup.py``."""
    (place / "DIR").mkdir()
    for number in (1, 2):
        torch.manual_seed(number)
        state = torchvision.models.resnet18(num_classes=1000).state_dict()
        torch.save(state, place / "DIR" / f"model{number:02}.pth")
        for name in ("disc", "ring"):
            folder = place / "FOLDER" / "labeled_images" / str(number) / name
            shutil.copytree(place / "NAME" / "labeled_images" / str(number) / name, folder)
    (place / "evaluation_setup.py").write_text(SETUP)


def good(place: Path, store: str = "STORE") -> int:
    """Records of a store that have their picture."""
    return int(Store.open(place / store).counts()["ok"])
