"""The image filter: decide on a decoded picture and its re-encoded size."""

from __future__ import annotations

import hashlib
import io

from attrs import frozen
from PIL import Image, UnidentifiedImageError

ATTEMPTS = 4
"""One try and three more."""

UNAVAILABLE_SHA256: frozenset[str] = frozenset()
"""Digests of known "photo unavailable" pictures; users add theirs with ``--unavailable-sha256``."""

FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "gif": "GIF", "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP",
           "webp": "WEBP"}  # fmt: skip


@frozen(kw_only=True)
class Limits:
    """What a picture must satisfy; 0 switches a test off."""

    min_edge: int = 0
    max_aspect_ratio: float = 0.0
    min_size: int = 10


def judge_size(width: float, height: float, limits: Limits) -> str:
    """``ok``, ``too_small_edge`` or ``aspect``; both limits are still good."""
    if width < limits.min_edge or height < limits.min_edge:
        return "too_small_edge"
    if limits.max_aspect_ratio and max(width, height) / min(width, height) > limits.max_aspect_ratio:
        return "aspect"
    return "ok"


def judge(width: float, height: float, n_bytes: float, limits: Limits) -> str:
    """The whole decision: edges, aspect, then bytes of the re-encoded file."""
    verdict = judge_size(width, height, limits)
    return "bytes" if verdict == "ok" and n_bytes < limits.min_size else verdict


@frozen(kw_only=True)
class Picture:
    """A decoded and re-encoded answer."""

    status: str
    width: int = 0
    height: int = 0
    data: bytes = b""
    sha256: str = ""
    error: str = ""


def decode(
    data: bytes,
    extension: str,
    limits: Limits,
    *,
    unavailable: frozenset[str] = UNAVAILABLE_SHA256,
    reencode: bool = True,
) -> Picture:
    """Judge bytes as they came over the wire.

    :param extension: decides the format on disk, with the encoder's defaults.
    :param reencode: False keeps the bytes as they are (a local folder, a mirror).
    :return: status ``decode`` for what is no picture, never an exception for bad bytes.
    """
    if hashlib.sha256(data).hexdigest() in unavailable:
        return Picture(status="unavailable", error="the host's 'photo unavailable' picture")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            width, height = image.size
            verdict = judge_size(width, height, limits)
            if verdict != "ok":
                return Picture(status=verdict, width=width, height=height)
            if reencode:
                target = FORMATS.get(extension.lower())
                if target is None:
                    return Picture(status="decode", error=f"no encoder for .{extension}")
                out = io.BytesIO()
                (image.convert("RGB") if target == "JPEG" and image.mode not in ("L", "RGB", "CMYK") else image).save(
                    out, target
                )
                data = out.getvalue()
    except UnidentifiedImageError:
        return Picture(status="decode", error="no picture format")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, EOFError) as error:
        return Picture(status="decode", error=f"{type(error).__name__}: {str(error)[:120]}")
    if len(data) < limits.min_size:
        return Picture(status="bytes", width=width, height=height, error=f"{len(data)} bytes")
    return Picture(status="ok", width=width, height=height, data=data, sha256=hashlib.sha256(data).hexdigest())
