"""Crowd work and labelling services on files: tasks out, votes in, cleaned folders, hold-outs, overlaps."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_kernel import BadInput, atomic, write_json, write_text
from cl_plugin_clear.curation.pictures import place
from cl_plugin_clear.curation.store import remove_stale
from cl_plugin_clear.curation.verify import REPORTS, Suspect, Voted, flagged, kept, reports
from cl_plugin_clear.data.labels import LABELED_IMAGES, class_names
from cl_plugin_clear.data.members import csv_rows, members_of, read_json_object

TASK_COLUMNS = ("image_url", "ID", "bucket_index", "query")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A csv file, whole or not at all."""
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, out.getvalue())


def task_files(folder: Path, out: Path, url_prefix: str, *, length: int = 0, crop: int = 224) -> list[Path]:
    """MTurk task files: one per bucket for the original pictures and one for centre-cropped ones (written beside).

    :param url_prefix: address that the folder is served at; a blank in an address becomes ``+``.
    :param length: at most so many rows a file; more go to further files. 0: one file a bucket.
    """
    from PIL import Image

    from cl_plugin_clear.data.release import read_picture

    _, buckets = members_of(folder)
    remove_stale(out)
    written = []
    for bucket, classes in buckets.items():
        for kind in ("original", f"cropped_{crop}"):
            rows = []
            for label, records in classes.items():
                for photo, record in records.items():
                    path = record["IMG_PATH"]
                    if kind != "original":
                        path = f"{kind}/{bucket}/{label}/{photo}.jpg"
                        target = out / path
                        if not target.exists():
                            with atomic(target) as file:
                                cropped = read_picture(folder / record["IMG_PATH"], crop)
                                Image.fromarray(cropped).save(file, "JPEG", quality=92)
                    rows.append((f"{url_prefix.rstrip('/')}/{path}".replace(" ", "+"), photo, bucket, label))
            size = length or max(len(rows), 1)
            for part, start in enumerate(range(0, len(rows), size)):
                suffix = f"_{part}" if length and len(rows) > length else ""
                path = out / f"{kind}_{bucket}{suffix}.csv"
                write_csv(path, TASK_COLUMNS, rows[start : start + size])
                written.append(path)
    return written


def read_votes(paths: Sequence[Path], label_map: Mapping[str, str] | None = None) -> list[Voted]:
    """Validation answers of all workers, one entry per image in order of first appearance.

    :param label_map: task label name -> class.
    :raises BadInput: naming file and row of an answer that cannot be read.
    """
    label_map = label_map or {}
    columns = ("Input.ID", "Input.bucket_index", "Input.query", "Input.image_url", "Answer.taskAnswers")
    found: dict[tuple[str, str, str], tuple[str, list[tuple[str, ...]]]] = {}
    for path in paths:
        for line, row in csv_rows(path, columns):
            try:
                labels = json.loads(row["Answer.taskAnswers"])[0]["image"]["labels"]
                votes = tuple(label_map.get(str(v), str(v)) for v in labels)
            except (ValueError, LookupError, TypeError) as error:
                raise BadInput(f"the answer cannot be read: {error!r}", where=f"{path}, line {line}") from None
            key = row["Input.ID"], row["Input.bucket_index"], row["Input.query"]
            found.setdefault(key, (row["Input.image_url"], []))[1].append(votes)
    return [Voted(*key, votes=tuple(votes), url=url) for key, (url, votes) in found.items()]


def read_ethics(paths: Sequence[Path]) -> list[tuple[str, list[bool]]]:
    """Ethics answers: (id, Yes of each worker)."""
    found: dict[str, list[bool]] = {}
    for path in paths:
        for line, row in csv_rows(path, ("Input.ID", "Answer.image-contains.label")):
            answer = row["Answer.image-contains.label"].strip().lower()
            if answer not in ("yes", "no"):
                raise BadInput(f"the answer is {answer!r}, not Yes or No", where=f"{path}, line {line}")
            found.setdefault(row["Input.ID"], []).append(answer == "yes")
    return list(found.items())


def write_reports(
    out: Path, votes: Sequence[Voted], ethics: Sequence[tuple[str, Sequence[bool]]] = ()
) -> dict[str, int]:
    """The six disagreement reports and the flagged images as csv; :return: rows of each."""
    found = reports(votes)
    sizes = {}
    width = max((len(vote.votes) for vote in votes), default=0)
    for name in REPORTS:
        write_csv(
            out / f"{name}.csv",
            (*TASK_COLUMNS, "disagree_count", *(f"worker_{w}" for w in range(width))),
            [_row(suspect, width) for suspect in found[name]],
        )
        sizes[name] = len(found[name])
    if ethics:
        rows = flagged(ethics)
        write_csv(out / "flagged.csv", ("ID", "yes_count"), rows)
        sizes["flagged"] = len(rows)
    return sizes


def _row(suspect: Suspect, width: int) -> list[Any]:
    image = suspect.image
    votes = ["|".join(vote) for vote in image.votes]
    return [
        image.url,
        image.id,
        image.bucket,
        image.query,
        suspect.disagree_count,
        *votes,
        *[""] * (width - len(votes)),
    ]


def read_feedback(folder: Path) -> list[tuple[str, str, str, list[str]]]:
    """``<bucket>/<label>/<ID>.json`` of a labelling service -> (bucket, label, id, answers), sorted.

    :raises BadInput: naming a file without the answer.
    """
    found = []
    for path in sorted(folder.glob("*/*/*.json")):
        content = read_json_object(path)
        try:
            answers = content["task_result"]["annotations"][0]["input"]["value"]
        except (LookupError, TypeError):
            raise BadInput("no answer at task_result.annotations[0].input.value", where=str(path)) from None
        answers = [str(a) for a in answers] if isinstance(answers, list) else [str(answers)]
        found.append((path.parent.parent.name, path.parent.name, path.stem, answers))
    return found


def collect(
    folder: Path,
    feedback: Path,
    out: Path,
    *,
    user_labels: Mapping[str, str],
    num_imgs: int = 150,
    by: str = "id",
    never: frozenset[str] = frozenset(),
) -> dict[str, int]:
    """A new folder with the pictures that people confirmed, ``num_imgs`` per class and bucket.

    :param by: ``id`` or ``score``: which come first; the original took whatever the file system gave first.
    :param never: ids to leave out, e.g. those flagged.
    :raises BadInput: listing every class and bucket with too few.
    """
    _, buckets = members_of(folder)
    good: dict[tuple[str, str], list[str]] = {}
    for bucket, label, photo in kept(read_feedback(feedback), user_labels):
        if photo not in never:
            good.setdefault((bucket, label), []).append(photo)
    chosen: dict[str, dict[str, dict[str, Any]]] = {}
    short = []
    for bucket, classes in buckets.items():
        chosen[bucket] = {}
        for label, records in classes.items():
            confirmed = set(good.get((bucket, label), ()))
            order = [photo for photo in records if photo in confirmed]
            if by == "id":
                order.sort(key=lambda photo: (len(photo), photo))
            if len(order) < num_imgs:
                short.append(f"bucket {bucket} {label} ({len(order)})")
            chosen[bucket][label] = {photo: records[photo] for photo in order[:num_imgs]}
    if short:
        raise BadInput(
            f"fewer than {num_imgs} confirmed: {', '.join(short)}",
            where=str(feedback),
            fix="lower --num-imgs, or collect more",
        )
    return write_subset(folder, out, chosen)


def write_subset(folder: Path, out: Path, chosen: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, int]:
    """A labelled folder with these pictures of another: images, metadata, class names, file lists."""
    remove_stale(out)
    labels = sorted({label for classes in chosen.values() for label in classes})
    names = class_names(labels)
    index = {name: i for i, name in enumerate(names)}
    sizes: dict[str, int] = {}
    lists, metadata = {}, {}
    for bucket, classes in chosen.items():
        lines = []
        metadata[bucket] = {label: f"labeled_metadata/{bucket}/{label}.json" for label in classes}
        for label, records in classes.items():
            for record in records.values():
                target = out / record["IMG_PATH"]
                target.parent.mkdir(parents=True, exist_ok=True)
                place(folder / record["IMG_PATH"], target)
                lines.append(f"{record['IMG_PATH']} {index[label]}")
            (out / LABELED_IMAGES / bucket / label).mkdir(parents=True, exist_ok=True)
            write_json(out / metadata[bucket][label], dict(records))
        write_text(out / "filelists" / f"{bucket}.txt", "\n".join(lines) + "\n")
        lists[bucket] = f"filelists/{bucket}.txt"
        sizes[bucket] = len(lines)
    write_json(out / "filelists.json", lists)
    write_json(out / "labeled_metadata.json", metadata)
    write_text(out / "class_names.txt", "\n".join(names))
    return sizes


def holdout(
    folder: Path,
    public: Path,
    out: Path,
    *,
    num_imgs: int,
    after_line: int = 10_060_000,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:
    """A second set that shares nothing with the first.

    Prefers pictures from source lines beyond ``after_line``; if those are too few, earlier ones from the end of the
    list, never one that is in the public set.

    :raises BadInput: listing classes that stay short.
    """
    _, mine = members_of(folder)
    _, theirs = members_of(public)
    used = {photo for classes in theirs.values() for records in classes.values() for photo in records}
    chosen: dict[str, dict[str, dict[str, Any]]] = {}
    short = []
    for bucket, classes in mine.items():
        chosen[bucket] = {}
        for label, records in classes.items():

            def line(photo: str, records: Mapping[str, Any] = records) -> int:
                return int(records[photo].get("LINE_NUM") or 0)

            fresh = [photo for photo in records if photo not in used]
            late = [photo for photo in fresh if line(photo) > after_line][:num_imgs]
            early = [photo for photo in reversed(fresh) if line(photo) <= after_line][: num_imgs - len(late)]
            if len(late) + len(early) < num_imgs:
                short.append(f"bucket {bucket} {label} ({len(late) + len(early)})")
            chosen[bucket][label] = {photo: records[photo] for photo in [*late, *early]}
            if early:
                report(f"bucket {bucket} {label}: {len(early)} from earlier lines")
    if short:
        raise BadInput(
            f"fewer than {num_imgs} left: {', '.join(short)}", where=str(folder), fix="retrieve a larger pool"
        )
    return write_subset(folder, out, chosen)


def overlap(a: Path, b: Path) -> dict[str, list[str]]:
    """Photos that are in both folders: bucket -> ids; ``across`` holds those in different buckets."""

    def places(folder: Path) -> dict[str, str]:
        _, buckets = members_of(folder)
        return {
            photo: bucket for bucket, classes in buckets.items() for records in classes.values() for photo in records
        }

    first, second = places(a), places(b)
    shared: dict[str, list[str]] = {}
    for photo in first.keys() & second.keys():
        shared.setdefault(first[photo] if first[photo] == second[photo] else "across", []).append(photo)
    return {bucket: sorted(ids) for bucket, ids in sorted(shared.items())}


def contained(small: Path, large: Path) -> dict[str, list[str]]:
    """Photos of ``small`` that ``large`` lacks: "bucket/label" -> ids. Empty: contained.

    Either may be what was retrieved (``clip_result.json``) or a labelled folder that was collected from it.
    """
    theirs = _photos_of(large)
    missing: dict[str, list[str]] = {}
    for bucket, classes in _photos_of(small).items():
        for label, photos in classes.items():
            have = set(theirs.get(bucket, {}).get(label, ()))
            if lost := [photo for photo in photos if photo not in have]:
                missing[f"{bucket}/{label}"] = lost
    return missing


def _photos_of(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Bucket -> label -> ids, as retrieved or, without that, as labelled."""
    if not (folder / "clip_result.json").exists():
        return {
            bucket: {label: list(records) for label, records in classes.items()}
            for bucket, classes in members_of(folder)[1].items()
        }
    return {
        bucket: {label: [hit["ID"] for hit in hits] for label, hits in read_json_object(folder / path).items()}
        for bucket, path in read_json_object(folder / "clip_result.json").items()
    }
