"""A concept group searched in every bucket: ``clip_result/<b>.json``, class names; resumed by bucket."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import BadInput, BadSetting, write_json, write_text
from cl_plugin_clear.curation.buckets import Split
from cl_plugin_clear.curation.concepts import Concepts
from cl_plugin_clear.curation.features import Embedder, Features
from cl_plugin_clear.curation.retrieval import BACKGROUND, normalise, retrieve
from cl_plugin_clear.curation.store import remove_stale
from cl_plugin_clear.data.labels import class_names, map_labels


@frozen
class Retrieved:
    """What happened: buckets made and found done."""

    made: list[int]
    reused: list[int]


def retrieve_group(
    root: Path,
    out: Path,
    concepts: Concepts,
    embedder: Embedder,
    *,
    label_map: Mapping[str, str] | None = None,
    label_default: str = "",
    buckets: Sequence[int] | None = None,
    allow_short: bool = False,
    never: Sequence[int] = (),
    report: Callable[[int], None] = lambda bucket: None,
) -> Retrieved:
    """Search every bucket for every prompt and write ``clip_result/<b>.json``: label -> [{ID, row, score}].

    :param never: photos that no class may get.
    :raises BadSetting: when the folder was begun with another group, label map or model.
    """
    concepts.check()
    if embedder.name != concepts.model:
        raise BadSetting(
            f"the group asks for {concepts.model!r}, the model is {embedder.name!r}",
            where="CLIP_MODEL",
            fix=f"--model {concepts.model}",
        )
    labels = map_labels(concepts.group, label_map, default=label_default)
    if concepts.background and BACKGROUND in labels:
        raise BadInput(f"a class is called {BACKGROUND}, and a background is asked for", where="label map")
    split = Split.open(root, concepts.split)
    remove_stale(out)
    identity = {**concepts.as_json(), "SAVE_PATH": ""} | ({"NEVER": sorted(map(int, never))} if never else {})
    _same_or_write(out / "concept_group_dict.json", identity, "concept group")
    if label_map is not None:
        _same_or_write(out / "label_map_dict.json", dict(zip(concepts.group, labels, strict=True)), "label map")
    queries = normalise(embedder.texts(concepts.queries()))
    made: list[int] = []
    reused: list[int] = []
    wanted = list(buckets) if buckets is not None else split.buckets
    for bucket in wanted:
        path = out / "clip_result" / f"{bucket}.json"
        if path.exists():
            reused.append(bucket)
            continue
        features = Features.open(root, embedder, concepts.split, bucket)
        if features.manifest["ids_sha256"] != split.info(bucket)["sha256"]:
            raise BadInput(
                f"the features of bucket {bucket} are of other pictures than the split's",
                where=str(features.folder),
                fix="remove them and run clk clear embed again",
            )
        ids = features.ids()
        chosen = retrieve(
            labels,
            queries,
            _without(features, ids, never),
            class_size=concepts.class_size,
            pool=min(concepts.pool, len(ids)),
            allow_overlap=concepts.allow_overlap,
            background=concepts.background,
            negative_ratio=concepts.negative_ratio,
            allow_short=allow_short,
            where=f"bucket {bucket}",
        )
        write_json(
            path,
            {
                label: [{"ID": str(ids[row]), "row": row, "score": score} for row, score in hits]
                for label, hits in chosen.items()
            },
        )
        made.append(bucket)
        report(bucket)
    names = class_names(labels + [BACKGROUND] * concepts.background)
    write_text(out / "class_names.txt", "\n".join(names))
    done = sorted(int(p.stem) for p in (out / "clip_result").glob("*.json"))
    write_json(out / "clip_result.json", {str(b): f"clip_result/{b}.json" for b in done})
    return Retrieved(made, reused)


def _without(features: Features, ids: np.ndarray, never: Sequence[int]) -> list[np.ndarray]:
    """The shards, rows of these photos as NaN: what cannot be read is never retrieved."""
    hit = np.isin(ids, np.asarray(never, np.int64)) if len(never) else np.zeros(len(ids), bool)
    shards, at = [], 0
    for shard in features.shards():
        mine = hit[at : at + len(shard)]
        at += len(shard)
        shards.append(np.where(mine[:, None], np.float32(np.nan), shard) if mine.any() else shard)
    return shards


def _same_or_write(path: Path, content: Mapping[str, Any], what: str) -> None:
    if path.exists():
        known = json.loads(path.read_text())
        if known != json.loads(json.dumps(content)):
            changed = sorted(
                key for key in {*known, *content} if known.get(key) != json.loads(json.dumps(content.get(key)))
            )
            raise BadSetting(
                f"the folder was begun with another {what}: {', '.join(changed)} differ",
                where=str(path),
                fix="use another output folder",
            )
    else:
        write_json(path, content)
