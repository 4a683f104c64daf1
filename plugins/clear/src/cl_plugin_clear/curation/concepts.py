"""Concept-group files: which prompts make which classes, read and written in the original's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from cl_kernel import BadInput, BadSetting, write_json
from cl_plugin_clear.curation.retrieval import check_sizes
from cl_plugin_clear.data.members import read_json_object

CLEAR10 = ("laptop", "camera", "bus", "sweater", "dress", "racing", "hockey", "cosplay", "baseball", "soccer")
_CLEAR100 = """
airplane amusement_park aquarium athletics bag bar baseball basketball beer bicycle boat bookstore boot bread
bridge bus_station cable cake camera car castle chair cheese chef chocolate church classroom coat cosplay
denim dress esport farm ferry firefighter fountain gallery glasses glove golf guitar hat headphone helicopter
highway hockey horse_riding ice_cream keyboard lamppost laptop makeup microphone mobile_phone mug museum
necklace noodle piano pizza police projector pump railway restaurant ring roller_skating salad sandal sandwich
scarf shopping_mall skateboarding skating skyscraper snowboarding sock sofa soldier sport_shoes stadium statue
subway supermarket sushi sweatshirt swimming swimsuit table television temple tennis tie toilet toy vase
violin volleyball wine zoo
"""
CLEAR100 = tuple(_CLEAR100.split())
"""Labels in class order; the prompts behind them are the user's to give, the label with blanks by default."""

INTERVALS_CLEAR10 = (
    ("2004-01-01 11:52:13", "2007-04-09 03:27:17"), ("2007-04-09 03:27:33", "2008-03-21 19:14:24"),
    ("2008-03-21 19:14:37", "2008-12-23 15:03:12"), ("2008-12-23 15:03:36", "2009-09-07 09:09:32"),
    ("2009-09-07 09:09:43", "2010-06-03 01:36:09"), ("2010-06-03 01:36:29", "2011-02-05 02:18:50"),
    ("2011-02-05 02:19:02", "2011-09-24 10:04:39"), ("2011-09-24 10:06:13", "2012-06-05 04:44:33"),
    ("2012-06-05 04:44:46", "2013-02-03 03:34:43"), ("2013-02-03 03:34:45", "2013-09-08 22:35:14"),
    ("2013-09-08 22:35:26", "2014-04-28 10:49:19"),
)  # fmt: skip
"""``clear_10_time.json``: UTC, both ends inclusive."""

_KEYS = {
    "name": "NAME", "prefix": "PREFIX", "allow_overlap": "ALLOW_OVERLAP", "split": "BUCKET_DICT_PATH", "model": "CLIP_MODEL",  # noqa: E501
    "class_size": "NUM_OF_IMAGES_PER_CLASS_PER_BUCKET", "pool": "NUM_OF_IMAGES_PER_CLASS_PER_BUCKET_TO_QUERY",
    "background": "BACKGROUND", "negative_ratio": "NEGATIVE_RATIO", "save_path": "SAVE_PATH", "group": "GROUP",
}  # fmt: skip


@frozen(kw_only=True)
class Concepts:
    """A concept group.

    :param prefix: put before each concept when it is looked for; class names never carry it.
    :param split: the split searched, by name (the original names a path: its stem counts).
    :param class_size: images per class and bucket; :param pool: how many are looked at per prompt.
    """

    name: str
    group: tuple[str, ...]
    prefix: str = ""
    allow_overlap: bool = False
    split: str = "equal-11"
    model: str = "RN101"
    class_size: int = 300
    pool: int = 16000
    background: bool = False
    negative_ratio: float = 0.1
    save_path: str = ""

    def check(self) -> Concepts:
        """The same, or a :class:`BadSetting` / :class:`BadInput` naming what cannot be."""
        check_sizes(self.class_size, self.pool, self.allow_overlap, self.background)
        twice = sorted({prompt for prompt in self.group if self.group.count(prompt) > 1})
        if twice:
            raise BadInput(f"a prompt occurs twice: {', '.join(map(repr, twice))}", where=f"concept group {self.name}")
        if not self.group:
            raise BadInput("the group has no prompts", where=f"concept group {self.name}", fix="list them under GROUP")
        if "/" in self.name or self.name in ("", ".", ".."):
            raise BadSetting(f"{self.name!r} cannot be a folder name", where="concept group", fix="choose another NAME")
        if not self.negative_ratio >= 0.0:
            raise BadSetting(f"a negative ratio of {self.negative_ratio}", where=f"concept group {self.name}")
        return self

    def queries(self) -> list[str]:
        """What is asked of the text tower."""
        return [self.prefix + prompt for prompt in self.group]

    def as_json(self) -> dict[str, Any]:
        """Under the original's keys."""
        values = {key: getattr(self, name) for name, key in _KEYS.items()}
        return {
            **values,
            "ALLOW_OVERLAP": int(self.allow_overlap),
            "BACKGROUND": int(self.background),
            "GROUP": list(self.group),
        }


def read_concepts(path: Path) -> Concepts:
    """A concept file of ours or of the original.

    :raises BadInput: naming the key that is missing, unknown or of the wrong type.
    """
    content = read_json_object(path)
    unknown = sorted(set(content) - set(_KEYS.values()))
    missing = [
        key
        for key in (
            "NAME",
            "GROUP",
            "NUM_OF_IMAGES_PER_CLASS_PER_BUCKET",
            "NUM_OF_IMAGES_PER_CLASS_PER_BUCKET_TO_QUERY",
        )
        if key not in content
    ]
    if unknown or missing:
        raise BadInput(
            f"unknown keys {unknown}, missing keys {missing}",
            where=str(path),
            fix=f"known: {', '.join(_KEYS.values())}",
        )
    values: dict[str, Any] = {}
    for name, key in _KEYS.items():
        if key not in content:
            continue
        value = content[key]
        try:
            if name == "group":
                value = tuple(str(prompt) for prompt in value)
            elif name in ("class_size", "pool"):
                value = int(value)
            elif name in ("allow_overlap", "background"):
                if value not in (0, 1, True, False):
                    raise ValueError(value)
                value = bool(value)
            elif name == "negative_ratio":
                value = float(value)
            elif name == "split":
                value = Path(str(value)).stem
            else:
                value = str(value)
        except (TypeError, ValueError):
            raise BadInput(f"{key} = {content[key]!r} is not what it should be", where=str(path)) from None
        values[name] = value
    return Concepts(**values).check()


def write_concepts(path: Path, concepts: Concepts) -> None:
    """Write a concept file in the original's form."""
    write_json(path, concepts.check().as_json())


def known_group(name: str, **changes: Any) -> Concepts:
    """The published groups by name: ``clear10``, ``clear100``.

    :raises BadSetting: for another name; CLEAR-50's prompts are not part of the published text.
    """
    groups: Mapping[str, Concepts] = {
        "clear10": Concepts(
            name="CLEAR10-TEST",
            group=CLEAR10,
            class_size=300,
            pool=16000,
            background=True,
            negative_ratio=0.1,
            split="clear_10_time",
        ),
        "clear100": Concepts(
            name="CLEAR100-V2",
            group=tuple(label.replace("_", " ") for label in CLEAR100),
            class_size=600,
            pool=15000,
            split="bucket_11",
        ),
    }
    if name not in groups:
        raise BadSetting(
            f"no published concept group {name!r}", where="--group", fix=f"{', '.join(groups)}, or a JSON file"
        )
    return evolve(groups[name], **changes).check()
