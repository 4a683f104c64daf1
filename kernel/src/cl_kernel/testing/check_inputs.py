"""Each input byte matters: what is read is identified by what it holds, wherever it lies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel.contract.errors import ClkError
from cl_kernel.registry import Offer
from cl_kernel.testing.short_runs import dataset_settings, held, stream_of
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, check

MOST_FILES = 10


@check
def each_input_byte_matters(subject: Subject) -> str:
    """A changed byte, size and time put back, changes the identity of a stream; a copied folder keeps it."""
    if subject.owner.about is None or subject.owner.about.spec < 2:
        raise NotApplicable("is of contract 1, whose data sets say themselves what they hold")
    n_files, looked = 0, []
    for offer in subject.offers("dataset"):
        folder = subject.folder / "bytes" / offer.record.name
        settings = subject.example(offer, folder / "here")
        if settings is not None:
            n_files += _look(subject, offer, settings, folder)
            looked.append(offer.record.name)
    if not looked:
        raise NotApplicable("gives no examples of the files that its data sets read (Dataset.example)")
    return f"{n_files} files of {len(looked)} data sets: {', '.join(looked)}"


def _look(subject: Subject, offer: Offer, settings: Mapping[str, Any], folder: Path) -> int:
    here, there = folder / "here", folder / "there"
    before, what = _identity(subject, offer, settings), _content(subject, offer, settings)
    shutil.copytree(here, there)
    for path in there.rglob("*"):
        os.utime(path, (1, 1))
    if _identity(subject, offer, _moved(settings, here, there)) != before:
        raise Failed(f"{offer.name}: a copied folder has another identity")
    files = sorted(path for path in here.rglob("*") if path.is_file() and path.stat().st_size)
    rng = np.random.default_rng(0)
    some = [files[i] for i in sorted(rng.choice(len(files), min(len(files), MOST_FILES), replace=False))]
    for path in some:
        _flip(path, path.stat().st_size // 2)
        try:
            same = _identity(subject, offer, settings) == before
            if same and _content(subject, offer, settings) != what:
                raise Failed(f"{offer.name}: a byte of {path.relative_to(here)} changed its samples, not its identity")
        except ClkError:
            pass  # refused: seen
        finally:
            _flip(path, path.stat().st_size // 2)
    if _identity(subject, offer, settings) != before:
        raise Failed(f"{offer.name}: put back as they were, the files have another identity")
    return len(some)


def _flip(path: Path, at: int) -> None:
    """Another bit at a place of a file; its size and time of change stay."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _moved(settings: Mapping[str, Any], here: Path, there: Path) -> dict[str, Any]:
    def moved(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(moved, value))
        return str(value).replace(str(here), str(there)) if isinstance(value, (str, Path)) else value

    return {key: moved(value) for key, value in settings.items()}


def _built(subject: Subject, offer: Offer, settings: Mapping[str, Any]) -> Any:
    given = {key: value for key, value in settings.items() if key != "data_roots"}
    made = dataset_settings(subject, offer, given, short=False)
    roots = tuple(map(str, settings.get("data_roots", ())))
    return stream_of(subject, offer, made, roots)


def _identity(subject: Subject, offer: Offer, settings: Mapping[str, Any]) -> str:
    return str(_built(subject, offer, settings).identity.key)


def _content(subject: Subject, offer: Offer, settings: Mapping[str, Any]) -> str:
    try:
        return held(_built(subject, offer, settings))
    except (ClkError, OSError, ValueError) as error:
        return f"unreadable: {type(error).__name__}"
