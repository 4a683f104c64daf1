"""Judgements of people on what a prompt retrieved: a journal that only grows, and what is made from it.

One JSON object a line: prompt, photo id, bucket, answer (``yes``, ``no``, ``skip``, or ``""`` to take back), time. The
last line about a prompt and a photo holds.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from cl_kernel import BadInput, MissingAsset, write_json, write_text
from cl_plugin_clear.curation.concepts import Concepts

ANSWERS = ("yes", "no", "skip", "")


@define
class Journal:
    """The judgements in one file.

    :raises BadInput: for a line, not the last, that is no judgement.
    """

    path: Path
    answers: dict[tuple[str, int], dict[str, Any]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        for entry in self._read():
            self._take(entry)

    def _read(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        lines = self.path.read_text().split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                yield {**entry, "id": int(entry["id"]), "prompt": str(entry["prompt"]), "answer": str(entry["answer"])}
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # cut off by a kill: what it said was not confirmed
                    return
                raise BadInput(f"line {number} is no judgement: {error}", where=str(self.path)) from error

    def _take(self, entry: dict[str, Any]) -> None:
        key = (entry["prompt"], entry["id"])
        if entry["answer"]:
            self.answers[key] = entry
        else:
            self.answers.pop(key, None)

    def add(self, prompt: str, photo: int, bucket: int, answer: str) -> None:
        """Write a judgement down; it is on the disk when this returns.

        :raises BadInput: for an answer that is none.
        """
        if answer not in ANSWERS:
            raise BadInput(f"{answer!r} is none of yes, no, skip", where="judgement")
        entry = {"prompt": prompt, "id": photo, "bucket": bucket, "answer": answer, "time": int(time.time())}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that was cut off
                    file.write(b"\n") if self._last_is_whole() else file.truncate(self._end_of_whole())
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(entry)

    def _last_is_whole(self) -> bool:
        try:
            json.loads(self.path.read_bytes().rpartition(b"\n")[2])
        except ValueError:
            return False
        return True

    def _end_of_whole(self) -> int:
        return self.path.read_bytes().rfind(b"\n") + 1

    def of(self, prompt: str) -> dict[int, str]:
        """Photo -> answer for a prompt."""
        return {photo: entry["answer"] for (asked, photo), entry in self.answers.items() if asked == prompt}

    def precision(self, prompt: str, photos: Sequence[int]) -> tuple[int, int]:
        """(right, judged) among these photos; skipped ones are not judged."""
        answers = self.of(prompt)
        found = [answers[photo] for photo in photos if answers.get(photo) in ("yes", "no")]
        return found.count("yes"), len(found)

    def never(self) -> list[int]:
        """Photos that were wrong for some prompt."""
        return sorted({photo for (_, photo), entry in self.answers.items() if entry["answer"] == "no"})

    def prompts(self) -> list[str]:
        """Prompts with at least one right photo, in the order in which they were first judged."""
        return list(dict.fromkeys(asked for (asked, _), entry in self.answers.items() if entry["answer"] == "yes"))


def csv_text(journal: Journal) -> str:
    """All judgements as a table."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(("prompt", "id", "bucket", "answer", "time"))
    for entry in journal.answers.values():
        table.writerow([entry[key] for key in ("prompt", "id", "bucket", "answer", "time")])
    return out.getvalue()


def export(journal: Journal, target: Path, *, split: str, model: str) -> int:
    """``.csv``: all judgements; ``.txt``: ids for ``--never``; ``.json``: a group of prompts with a right photo.

    :return: rows, ids or prompts. :raises BadInput: for another form, or when there is nothing to write.
    """
    if target.suffix == ".csv":
        write_text(target, csv_text(journal))
        return len(journal.answers)
    if target.suffix == ".txt":
        ids = journal.never()
        write_text(target, "".join(f"{photo}\n" for photo in ids))
        return len(ids)
    if target.suffix == ".json":
        if not (prompts := journal.prompts()):
            raise BadInput("no prompt has a photo judged right", where=str(journal.path))
        group = Concepts(name=target.stem, group=tuple(prompts), split=split, model=model)
        write_json(target, group.as_json())
        return len(prompts)
    raise BadInput(f"unknown form {target.suffix!r}", where=str(target), fix=".csv, .txt (ids for --never) or .json")


def read_ids(path: Path) -> list[int]:
    """Photo ids, one a line.

    :raises MissingAsset: without the file. :raises BadInput: naming a line that is none.
    """
    if not path.is_file():
        raise MissingAsset("no file of photo ids", where=str(path), fix="clk clear explore --export never.txt")
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found += [int(line)] if line.strip() else []
        except ValueError:
            raise BadInput(f"line {number}: {line[:40]!r} is no photo id", where=str(path)) from None
    return found
