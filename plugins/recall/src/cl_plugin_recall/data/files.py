"""Image and label files on disk; needs no deep-learning library.

Shapes: H W image.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cl_kernel import BadInput, Field


def objects(values: Sequence[object]) -> np.ndarray:
    """A one-dimensional object array, also when the values are arrays of equal shape."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def record_fields(n_classes: int) -> dict[str, Field]:
    """Fields of images with masks of any size."""
    return {
        "image": Field(shape=(), dtype="object", kind="image", encoding="jpeg"),
        "mask": Field(shape=(None, None), dtype="uint8", kind="mask", n=n_classes),
    }


def encode_png(label: np.ndarray) -> bytes:
    """Label map uint8 [H, W] -> 1-channel PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(label, np.uint8), "L").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(data: bytes, where: str = "") -> np.ndarray:
    """PNG bytes -> uint8 [H, W]; a palette PNG gives its indices.

    :raises BadInput: for anything that is no single-channel 8-bit image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("P", "L", "1"):
                raise BadInput(
                    f"label image has mode {image.mode}, not one channel of class indices",
                    where=where,
                    fix="store labels as palette or greyscale PNG whose values are class numbers",
                )
            return np.asarray(image, np.uint8)
    except (OSError, SyntaxError) as error:
        raise BadInput(f"label image cannot be decoded: {error}", where=where) from error


class LabelMaps:
    """Label maps that were decoded before, packed: unpacking takes a quarter of the time of reading a PNG again.

    :param room: bytes to be held; what does not fit is decoded every time.
    """

    def __init__(self, room: int = 256 << 20) -> None:
        self._room = room
        self._packed: dict[int, tuple[tuple[int, int], bytes]] = {}

    def get(self, row: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The map of a row, uint8 [H, W], read-only when it is not new."""
        if row in self._packed:
            (height, width), packed = self._packed[row]
            return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, width)
        label = decode()
        if self._room > 0:
            packed = zlib.compress(label.tobytes(), 1)
            self._packed[row] = ((label.shape[0], label.shape[1]), packed)
            self._room -= len(packed)
        return label


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """uint8 [H, W, 3] -> JPEG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def stems(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by stem, numbers in numeric order, then names."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    return {
        p.stem: p for p in sorted(found, key=lambda p: (0, int(p.stem), "") if p.stem.isdigit() else (1, 0, p.stem))
    }


def pairs_of_folders(images: Path, labels: Path | None = None) -> Iterator[tuple[bytes, bytes | None]]:
    """Image and label bytes of two folders paired by file stem, whatever order the folders list them in.

    :raises BadInput: for an image without label or a label without image.
    """
    image_of = stems(images, (".jpg", ".jpeg"))
    if not image_of:
        raise BadInput("folder holds no JPEG images", where=str(images))
    if labels is None:
        for path in image_of.values():
            yield path.read_bytes(), None
        return
    label_of = stems(labels, (".png",))
    if missing := set(image_of) - set(label_of):
        raise BadInput(f"{len(missing)} image(s) without label, as {sorted(missing)[0]!r}", where=str(labels))
    if extra := set(label_of) - set(image_of):
        raise BadInput(f"{len(extra)} label(s) without image, as {sorted(extra)[0]!r}", where=str(images))
    for stem, path in image_of.items():
        yield path.read_bytes(), index_png(label_of[stem])


def pairs_of_list(
    listing: Path, *, labels: bool = True, base: Path | None = None
) -> Iterator[tuple[bytes, bytes | None]]:
    """Pairs of a file with ``IMAGE_PATH LABEL_PATH`` a line.

    :param base: where relative paths start; the list's own folder if None.
    :raises BadInput: naming the line.
    """
    base = listing.parent if base is None else base
    for number, line in enumerate(listing.read_text().splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split(" ")
        where = f"{listing}, line {number}"
        if len(parts) != 2:
            raise BadInput(f"expected IMAGE_PATH LABEL_PATH with one space, got {line!r}", where=where)
        image, label = (base / part for part in parts)
        for path in (image, label) if labels else (image,):
            if not path.is_file():
                raise BadInput(f"file {path} does not exist", where=where)
        yield image.read_bytes(), index_png(label) if labels else None


def index_png(path: Path) -> bytes:
    """PNG bytes with class indices in one channel; a palette PNG is rewritten, since TensorFlow would expand it."""
    return encode_png(decode_png(path.read_bytes(), str(path)))


def pairs_of_folder_images(folder: Path) -> Iterator[tuple[bytes, bytes | None]]:
    """JPEG bytes of a folder in order, without labels."""
    for path in stems(folder, (".jpg", ".jpeg")).values():
        yield path.read_bytes(), None
