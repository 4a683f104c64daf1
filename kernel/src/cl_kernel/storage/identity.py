"""What a thing is, as far as anything made from it can tell: name, revision, settings and content, and one key for all.

An artefact is reused, and a run goes on, exactly when the identities are equal; when they are not, the message names
what differs. The caller passes the pieces; which settings do not count is said where they are declared, with
:func:`cl_kernel.doc`.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from cl_kernel.contract.errors import RunConflict
from cl_kernel.storage.digests import Files, digest_array, digest_bytes, files_below

RECORD = "identity.json"
"""File in which a folder keeps the identity of what it holds."""

_MANY = 5  # differences that a message names


@frozen
class Identity:
    """Name, revision and everything else that counts, as plain values, and their key.

    :param parts: nested names -> plain values; content stands there as its digest.
    """

    name: str
    parts: Mapping[str, Any] = field(repr=False)
    key: str = field(init=False)

    @key.default
    def _key(self) -> str:
        return _digest({"name": self.name, **self.parts})

    def __str__(self) -> str:
        return self.key

    def plain(self) -> dict[str, Any]:
        """As it is written to disk."""
        return {"name": self.name, **self.parts}


def identify(name: str, revision: int = 1, *, files: Files | None = None, **parts: Any) -> Identity:
    """The identity of a piece, a stream or an artefact.

    :param name: of the piece or kind of artefact, as ``"remind-base"``.
    :param revision: raised when equal inputs give another output than before, never for a release as such.
    :param files: remembers digests of files; without it each is read.
    :param parts: what it depends on, whole: settings objects (without what their ``doc`` declares not to count), stages
        and streams, samples, arrays, trees of arrays (a network's state), other identities, a ``Path`` (what the file
        or folder holds, not where it lies) and plain values. One that is None counts as None.
    :raises TypeError: for a part that has no content anybody could compare.
    """
    reader = files or Files()
    plain = {key: canonical(value, reader) for key, value in parts.items()}
    if reader.how == "quick" and reader.asked:
        plain["files by"] = "name, size and time"
    return Identity(name, {"revision": revision, **plain})


def counted(settings: Any, phase: str = "") -> dict[str, Any]:
    """The settings that count: all but those declared ``harmless`` or ``counted`` by other means.

    :param phase: what is made; settings declared ``only`` for other phases do not count either.
    """
    kept = {}
    for attribute in attrs.fields(type(settings)):
        said = attribute.metadata
        elsewhere = phase and said.get("only") and phase not in said["only"]
        if not (said.get("harmless") or said.get("counted") or elsewhere):
            kept[attribute.name] = getattr(settings, attribute.name)
    return kept


def canonical(value: Any, files: Files) -> Any:
    """A value as plain nested values, content as its digest.

    :raises TypeError: naming the type that has no content.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, enum.Enum):
        return canonical(value.value, files)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Identity):
        return value.plain()
    if isinstance(own := getattr(value, "identity", None), Identity):
        return own.plain()
    if (make := getattr(value, "identify", None)) is not None and not isinstance(value, type):
        return canonical(make(files), files)
    return _structure(value, files)


def _structure(value: Any, files: Files) -> Any:
    if isinstance(value, Path):
        return _path(value, files)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": len(value), "content": digest_bytes(bytes(value))}
    if isinstance(value, Mapping):
        return {str(key): canonical(inner, files) for key, inner in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((canonical(inner, files) for inner in value), key=repr)
    if isinstance(value, (tuple, list, range)):
        return [canonical(inner, files) for inner in value]
    if attrs.has(type(value)):
        return canonical(counted(value), files)
    if hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "tobytes"):
        return canonical(value.item(), files) if value.shape == () else digest_array(value)
    raise TypeError(
        f"{type(value).__module__}.{type(value).__name__} has no identity: pass settings, stages, arrays, paths or "
        "plain values, or give it a method identify(files)"
    )


def _path(path: Path, files: Files) -> Any:
    if path.is_dir():
        below = files_below(path)
        digests = files.digests(below.values())
        return {"files": len(below), "content": _digest(dict(zip(below, digests, strict=True)))}
    return {"content": files.digest(path)}


def _digest(plain: Any) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


# ---- same or not -----------------------------------------------------------------------------------------------


def differences(one: Any, two: Any, at: str = "") -> list[str]:
    """What differs between two identities or plain trees, as ``settings.lr: 0.1, now 0.2``; the smaller things first
    are those that stand first. Empty when nothing does.
    """
    one, two = (value.plain() if isinstance(value, Identity) else value for value in (one, two))
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        keys = [*one, *(key for key in two if key not in one)]
        inner = [differences(one.get(k, _ABSENT), two.get(k, _ABSENT), f"{at}.{k}" if at else str(k)) for k in keys]
        return [line for lines in inner for line in lines]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two) and any(map(_deep, one)):
        inner = [differences(a, b, f"{at}[{i}]") for i, (a, b) in enumerate(zip(one, two, strict=True))]
        return [line for lines in inner for line in lines]
    return [] if one == two else [f"{at}: {_short(one)}, now {_short(two)}"]


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _deep(value: Any) -> bool:
    return isinstance(value, (list, Mapping))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... ({len(text)} characters)"


def same_or_refuse(
    made: Identity | Mapping[str, Any],
    wanted: Identity,
    *,
    what: str,
    where: str | Path,
    fix: str = "",
    error: type[RunConflict] = RunConflict,
) -> None:
    """Return when what was made is what is wanted now; else refuse, naming what differs.

    :param what: for the message, as ``"the features"``.
    :raises RunConflict: with the differences; or ``error``.
    """
    old = made.plain() if isinstance(made, Identity) else made
    new = json.loads(json.dumps(wanted.plain()))
    if found := differences(old, new):
        more = f" and {len(found) - _MANY} more" if len(found) > _MANY else ""
        raise error(
            f"{what} there were made from something else: {'; '.join(found[:_MANY])}{more}", where=str(where), fix=fix
        )


def recorded(folder: Path) -> dict[str, Any] | None:
    """The identity of what a folder holds, as it was recorded there; None where none was.

    :raises RunConflict: when the record is damaged.
    """
    try:
        content: dict[str, Any] = json.loads((folder / RECORD).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunConflict(f"{RECORD} is damaged: {error}", where=str(folder), fix="make it again") from error
    return content


def record(folder: Path, identity: Identity) -> None:
    """Write the identity of what a folder holds beside it."""
    from cl_kernel.storage.files import write_json

    write_json(folder / RECORD, identity.plain())
