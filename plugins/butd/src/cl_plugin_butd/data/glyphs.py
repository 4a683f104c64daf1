"""Where characters come from: EMNIST, scikit-learn's digits, Omniglot, Fashion-MNIST, KMNIST, CIFAR, or patterns.

Shapes: N instances, H W pixels, C channels.
"""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from attrs import field, frozen

from cl_kernel import BadInput, MissingAsset, fingerprint
from cl_plugin_butd.data import emnist as nist

DIGITS = "digits"
"""The source that needs nothing but scikit-learn: 1,797 real handwritten digits."""

EMNIST_CONFUSED = (24, 15, 44, 21, 46, 41, 12, 28, 18, 11, 34, 43, 37, 33, 45, 17, 25, 16)
"""Classes left out because they look alike: O F q L t g C S I B Y n b X r H P G."""


@frozen(kw_only=True)
class Glyphs:
    """Instances of characters.

    :param images: uint8 [N, H, W] or [N, H, W, 3].
    :param labels: int64 [N].
    :param usable: classes that may be used.
    :param languages: alphabet of each class, for Omniglot.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    usable: tuple[int, ...] = ()
    languages: tuple[int, ...] = field(default=())
    language_names: tuple[str, ...] = field(default=())

    def __attrs_post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise BadInput(f"{len(self.images)} images but {len(self.labels)} labels", where=f"glyphs {self.name!r}")
        bad = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.class_names)))
        if len(bad):
            raise BadInput(
                f"label {int(self.labels[bad[0]])} of image {int(bad[0])}: there are {len(self.class_names)} classes",
                where=f"glyphs {self.name!r}",
                fix="get the raw files again: remove them and fetch them anew",
            )

    @property
    def checksum(self) -> str:
        """Digest of the pixels and labels."""
        return fingerprint(self.images, self.labels)

    def instances(self) -> list[np.ndarray]:
        """Rows of each class, in order of appearance."""
        return [np.flatnonzero(self.labels == c) for c in range(len(self.class_names))]


def digits() -> Glyphs:
    """scikit-learn's digits: 8 x 8, 17 grey levels, 10 classes; real handwriting without a download."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise MissingAsset("no digits: scikit-learn is not installed", fix="pip install scikit-learn")
    # the table itself: importing scikit-learn takes longer than a short run
    table = np.loadtxt(Path(found.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",")
    return Glyphs(
        name=DIGITS,
        images=np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8),
        labels=table[:, -1].astype(np.int64),
        class_names=tuple("0123456789"),
        usable=tuple(range(10)),
    )


def patterns(n_classes: int, rng: np.random.Generator, *, size: int = 7, n_on: int = 18) -> Glyphs:
    """Fixed random patterns, one instance a class.

    :param n_on: lit pixels of each pattern.
    """
    images = np.zeros((n_classes, size * size), np.uint8)
    for image in images:
        image[rng.permutation(size * size)[:n_on]] = 255
    return Glyphs(
        name="patterns",
        images=images.reshape(n_classes, size, size),
        labels=np.arange(n_classes, dtype=np.int64),
        class_names=tuple(f"p{i}" for i in range(n_classes)),
        usable=tuple(range(n_classes)),
    )


def _torchvision(name: str, root: Path, **options: object) -> list[object]:
    from torchvision import datasets

    try:
        return [
            getattr(datasets, name)(root=str(root), download=False, **{**options, **side})
            for side in ({"train": True}, {"train": False})
        ]
    except (ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise BadInput(
            f"{name}: unreadable raw files: {error}",
            where=str(root),
            fix=f"remove the folder of {name} below {root} (what lies there is not fetched again) and run "
            f"`python -c \"import torchvision.datasets as d; d.{name}('{root}', download=True"
            + "".join(f", {k}={v!r}" for k, v in options.items())
            + ')"`',
        ) from error
    except RuntimeError as error:
        raise MissingAsset(
            f"{name} is not below {root}",
            where="--data-root",
            fix=f"python -c \"import torchvision.datasets as d; d.{name}('{root}', download=True"
            + "".join(f", {k}={v!r}" for k, v in options.items())
            + ')"',
        ) from error


EMNIST_NAMES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
"""Characters of EMNIST balanced, in class order (its official mapping file)."""


def emnist(root: Path) -> Glyphs:
    """EMNIST balanced, train then test, upright: 131,600 of 28 x 28, 47 classes of which 29 are used.

    As NIST ships it, or as torchvision keeps it.
    """
    read = None if (root / "EMNIST" / "raw").is_dir() else nist.reader(root)
    if read is not None:
        sides = read()
    else:
        parts = _torchvision("EMNIST", root, split="balanced")
        sides = [(np.asarray(p.data), np.asarray(p.targets)) for p in parts]  # type: ignore[attr-defined]
    images = np.concatenate([images.transpose(0, 2, 1) for images, _ in sides])
    labels = np.concatenate([labels for _, labels in sides])
    return Glyphs(
        name="emnist",
        images=np.ascontiguousarray(images),
        labels=labels.astype(np.int64),
        class_names=EMNIST_NAMES,
        usable=tuple(c for c in range(47) if c not in EMNIST_CONFUSED),
    )


def grey(name: str, root: Path) -> Glyphs:
    """Fashion-MNIST or KMNIST, train then test."""
    parts = _torchvision(name, root)
    images = np.concatenate([np.asarray(part.data) for part in parts])  # type: ignore[attr-defined]
    labels = np.concatenate([np.asarray(part.targets) for part in parts])  # type: ignore[attr-defined]
    return Glyphs(
        name=name,
        images=images,
        labels=labels.astype(np.int64),
        class_names=tuple(str(c) for c in parts[0].classes),  # type: ignore[attr-defined]
        usable=tuple(range(10)),
    )


def cifar(name: str, root: Path) -> Glyphs:
    """CIFAR-10 or CIFAR-100, train then test, in colour."""
    parts = _torchvision(name, root)
    images = np.concatenate([np.asarray(part.data) for part in parts])  # type: ignore[attr-defined]
    labels = np.concatenate([np.asarray(part.targets) for part in parts])  # type: ignore[attr-defined]
    names = tuple(parts[0].classes)  # type: ignore[attr-defined]
    return Glyphs(
        name=name, images=images, labels=labels.astype(np.int64), class_names=names, usable=tuple(range(len(names)))
    )


OMNIGLOT_SETS = (
    ("images_background", "images_evaluation"),
    ("images_background",),
    ("images_evaluation",),
    ("images_background_small1", "images_background_small2"),
    ("images_background_small1",),
    ("images_background_small2",),
)
"""Sets of pictures that may be there, the largest first: the small ones are parts of the background set."""


def omniglot_folders(root: Path) -> list[Path]:
    """Unpacked sets of Omniglot below a data root, as torchvision, its authors or an archive leave them."""
    for base in (root / "omniglot-py", root / "omniglot", root / "omniglot" / "python", root / "python", root):
        for names in OMNIGLOT_SETS:
            if all((base / name).is_dir() for name in names):
                return [base / name for name in names]
    return []


def omniglot(root: Path) -> Glyphs:
    """Omniglot, both sets, one, or the small ones: inverted and 28 x 28; classes are characters, languages alphabets.

    Languages are numbered by their count of characters, fewest first (ties by name), 50 in all.
    """
    from PIL import Image

    folders = omniglot_folders(root)
    if not folders:
        raise MissingAsset(
            f"Omniglot is not below {root}",
            where="--data-root",
            fix=f'python -c "from torchvision.datasets import Omniglot as O; '
            f"[O('{root}', background=b, download=True) for b in (True, False)]\"",
        )
    alphabets = sorted(
        (a for f in folders for a in f.iterdir() if a.is_dir()),
        key=lambda a: (sum(c.is_dir() for c in a.iterdir()), a.name),
    )
    images, labels, names, languages = [], [], [], []
    for language, alphabet in enumerate(alphabets):
        for character in sorted(c for c in alphabet.iterdir() if c.is_dir()):
            for file in sorted(character.glob("*.png")):
                try:
                    with Image.open(file) as picture:
                        small = picture.convert("L").resize((28, 28), Image.Resampling.BILINEAR)
                except OSError as error:
                    raise BadInput(f"cannot read a character: {error}", where=str(file)) from error
                images.append(255 - np.asarray(small, np.uint8))
                labels.append(len(names))
            names.append(f"{alphabet.name}/{character.name}")
            languages.append(language)
    return Glyphs(
        name="omniglot",
        images=np.stack(images),
        labels=np.asarray(labels, np.int64),
        class_names=tuple(names),
        usable=tuple(range(len(names))),
        languages=tuple(languages),
        language_names=tuple(a.name for a in alphabets),
    )


def load(name: str, root: Path | None) -> Glyphs:
    """A source by name.

    :param root: where raw files lie; ``digits`` needs none.
    :raises MissingAsset: with a command that fetches the files.
    """
    if name == DIGITS:
        return digits()
    if root is None:
        raise MissingAsset(f"{name} needs raw files", where="--data-root", fix="give the folder with --data-root DIR")
    match name:
        case "emnist":
            return emnist(root)
        case "fashion":
            return grey("FashionMNIST", root)
        case "kmnist":
            return grey("KMNIST", root)
        case "cifar10":
            return cifar("CIFAR10", root)
        case "cifar100":
            return cifar("CIFAR100", root)
        case "omniglot":
            return omniglot(root)
    raise BadInput(
        f"unknown glyph source {name!r}",
        where="dataset.source",
        fix="use digits, emnist, fashion, kmnist, cifar10, cifar100 or omniglot",
    )
