"""Named feature sets of the labelled pictures of a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import Identity, atomic, record, recorded, same_or_refuse, write_json
from cl_plugin_clear.curation.store import one_folder, remove_stale
from cl_plugin_clear.data.members import load_features, members_of


def save_torch(path: Path, content: Any) -> None:
    """``torch.save``, whole or not at all."""
    import torch

    with atomic(path) as file:
        torch.save(content, file)


def write_features(
    folder: Path,
    name: str,
    extract: Callable[[list[Path]], np.ndarray],
    *,
    made_from: Identity | None = None,
    batch_size: int = 256,
    state_dict: Mapping[str, Any] | None = None,
    report: Callable[[int], None] = lambda n: None,
) -> int:
    """A named feature set of every labelled picture: ``features/<name>/<b>/<label>.pth``; finished files are kept.

    :param made_from: encoder, weights and size; a set holds what one of them gave.
    :return: pictures read.
    :raises RunConflict: when the set was made from something else.
    """
    import torch

    _, buckets = members_of(folder)
    if made_from is not None:
        _check_made_from(folder / "features" / one_folder(name, "--name"), made_from)
    remove_stale(folder / "features")
    n_read = 0
    index: dict[str, dict[str, str]] = {}
    for bucket, classes in buckets.items():
        index[bucket] = {}
        for label, records in classes.items():
            path = f"features/{name}/{bucket}/{label}.pth"
            index[bucket][label] = path
            if (folder / path).exists() and set(load_features(folder / path)) == set(records):
                continue
            ids = list(records)
            rows = []
            for start in range(0, len(ids), batch_size):
                batch = [folder / records[photo]["IMG_PATH"] for photo in ids[start : start + batch_size]]
                rows.append(np.asarray(extract(batch), np.float32))
                n_read += len(batch)
            stacked = torch.from_numpy(np.concatenate(rows)) if rows else torch.empty(0, 0)
            save_torch(folder / path, {photo: stacked[i].clone() for i, photo in enumerate(ids)})
            report(len(ids))
    if state_dict is not None:
        save_torch(folder / "features" / name / "state_dict.pth.tar", dict(state_dict))
    write_json(folder / "features" / name / "features.json", index)
    return n_read


def _check_made_from(place: Path, made_from: Identity) -> None:
    known = recorded(place)
    if known is not None:
        fix = "another --name, or remove the set"
        same_or_refuse(known, made_from, what=f"the features {place.name}", where=place, fix=fix)
    elif not any(place.rglob("*.pth")):  # a set of before there were identities keeps none
        place.mkdir(parents=True, exist_ok=True)
        record(place, made_from)
