"""The eight tests and the nine configurations as data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from cl_kernel import BadSetting, Expected, Experiment

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Class k of Pascal VOC is entry k - 1; label 0 is background."""

STRUCTURE = r"\d+(?:[-+]\d+(?:[x×]\d+)?)+"
"""What a structure string looks like: ``15-1``, ``10-5-5``, ``15-1x5``."""


@frozen(kw_only=True)
class Test:
    """One of the paper's tests: classes of step 0, then of every step."""

    index: int
    name: str
    structure: str
    sizes: tuple[int, ...]

    @property
    def steps(self) -> list[list[int]]:
        """Class numbers of each step, from 1."""
        return class_steps(self.sizes)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Number and structure strings that mean this test."""
        long = "-".join(str(size) for size in self.sizes)
        return tuple(dict.fromkeys((str(self.index), self.structure, *((long,) if len(self.sizes) > 1 else ()))))


def class_steps(sizes: Sequence[int]) -> list[list[int]]:
    """Class numbers of each step, 1-based, in index order."""
    steps, first = [], 1
    for size in sizes:
        steps.append(list(range(first, first + size)))
        first += size
    return steps


def parse_structure(text: str, n_classes: int) -> tuple[int, ...]:
    """Classes a step brings: ``15-1`` on 20 classes is 15 and five times 1; ``joint`` is all at once.

    :raises BadSetting: when the text is no structure or does not use up the classes in equal increments.
    """
    where = f"structure {text!r} on {n_classes} classes"
    if text.lower() == "joint":
        return (n_classes,)
    if not re.fullmatch(r"\d+(?:[-+]\d+(?:[x×]\d+)?)*", text):
        raise BadSetting(
            f"{text!r} is no structure string", where="structure", fix="write 15-1, 10-5-5, 15-1x5 or joint"
        )
    first, *rest = re.split(r"[-+]", text)
    sizes = [int(first)]
    for part in rest:
        size, _, times = part.replace("×", "x").partition("x")
        sizes += [int(size)] * int(times or 1)
    if len(rest) == 1 and "x" not in rest[0].replace("×", "x") and sizes[1] and (n_classes - sizes[0]) > sizes[1]:
        left = n_classes - sizes[0]
        if left % sizes[1]:
            raise BadSetting(
                f"{left} classes after the first {sizes[0]} do not divide into steps of {sizes[1]}",
                where=where,
                fix=f"use steps of {[k for k in range(1, left + 1) if left % k == 0]}",
            )
        sizes = [sizes[0]] + [sizes[1]] * (left // sizes[1])
    if min(sizes) < 1 or sum(sizes) != n_classes:
        raise BadSetting(
            f"steps of {sizes} classes do not add up to the {n_classes} classes of the data",
            where=where,
            fix="give a structure that uses every class once, e.g. "
            f"{max(1, n_classes // 2)}-{n_classes - max(1, n_classes // 2)}",
        )
    return tuple(sizes)


TESTS = tuple(
    Test(index=index, name=name, structure=structure, sizes=parse_structure(structure, 20))
    for index, (name, structure) in enumerate(
        (
            ("ADD_ONE_ONE_TIME", "19-1"),
            ("ADD_FIVE_ONE_TIME", "15-5"),
            ("ADD_FIVE_TWO_TIMES", "10-5-5"),
            ("ADD_ONE_FIVE_TIMES", "15-1"),
            ("ADD_TEN_ONE_TIME", "10-10"),
            ("ADD_TWO_FIVE_TIMES", "10-2"),
            ("ADD_ONE_TEN_TIMES", "10-1"),
            ("JOINT", "20"),
        )
    )
)


def helper_sets(sizes: Sequence[int], one_class: bool = False) -> list[list[int]]:
    """Class lists that need a helper decoder: every step's but the first and the last."""
    middle = class_steps(sizes)[1:-1]
    return [[c] for step in middle for c in step] if one_class else middle


# ---- what the kernel offers as --test ---------------------------------------------------------------

TINY: dict[str, Any] = {
    "test_name": "TINY",
    "batch_size": 16,
    "train_image_size": 64,
    "optimiser": "adam",
    "decay_power": 1.0,
    "lr_floor": "own",
    "augment_scale": (1.0, 1.0),
    "lr_initial_value": 3e-3,
    "lr_final_value": 1.5e-4,
    "training_steps_per_class": 30,
    "decay_steps_per_class": 28,
    "lr_initial_value_helper": 1e-3,
    "lr_final_value_helper": 5e-5,
    "training_steps_per_class_helper": 50,
    "decay_steps_per_class_helper": 25,
    "lr_initial_value_incremental": 1e-3,
    "lr_final_value_incremental": 5e-5,
    "training_steps_per_class_incremental": 100,
    "decay_steps_per_class_incremental": 100,
    "interleave_ratio_old": 16,
    "interleave_ratio_new": 16,
}
"""The toy data's schedule."""

SMALL: dict[str, Any] = TINY | {
    "test_name": "SMALL",
    "batch_size": 8,
    "train_image_size": 257,
    "augment_scale": (0.7, 1.3),
    "training_steps_per_class": 225,
    "decay_steps_per_class": 180,
    "interleave_ratio_old": 8,
    "interleave_ratio_new": 8,
}
"""Real images on two cores in about ten minutes."""

SMALL_MODEL: dict[str, Any] = {"stride": 8, "rates": (1, 3, 6, 9)}
"""Photographs of several hundred pixels: the network must see further than on the toy data."""

LEARNER_PROFILES: dict[str, dict[str, Any]] = {"tiny": TINY, "small": SMALL}


def distilled(profile: dict[str, Any]) -> dict[str, Any]:
    """A profile for methods without helpers and replay; later steps train everything at a tenth of step 0's rate."""
    kept = {key: value for key, value in profile.items() if "helper" not in key and not key.startswith("interleave")}
    rates = {f"lr_{end}_value_incremental": profile[f"lr_{end}_value"] / 10 for end in ("initial", "final")}
    return kept | rates


DISTILLED_PROFILES = {name: distilled(profile) for name, profile in LEARNER_PROFILES.items()}

FINE_TUNING = {"learner.interleave_ratio_old": 0, "learner.mix_labels": False}
"""No replay and no inpainting."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "fine-tuning": FINE_TUNING,
    "inpainting": {"learner.interleave_ratio_old": 0, "learner.mix_labels": True},
    "replay": {"learner.mix_labels": False},
    "lwf": {"learner": "recall:lwf"},
    "ilt": {"learner": "recall:ilt"},
    "mib": {"learner": "recall:mib"},
    "plop": {"learner": "recall:plop"},
    "recall-mib": {"learner": "recall:recall-mib"},
    "joint": {"dataset.structure": "joint", "dataset.protocol_first": "sequential"},
}
"""What the method is compared with: label -> settings on top of a test's."""

REPLAYED = ("recall", "replay", "recall-mib")
"""Those of them that replay."""

SOURCES = ("gan", "flickr")
"""Replay sources of the paper."""

EVERYTHING: tuple[dict[str, str], ...] = (
    {"test": "JOINT", "config": "JOINT", "replay": "none"},
    *(
        {"replay": source, "config": config, "test": test.name}
        for source in SOURCES
        for config in ("OVERLAPPED", "DISJOINT", "SEQUENTIAL")
        for test in TESTS
        if test.name != "JOINT"
    ),
)
"""The reference's 43 experiments (``--all``), those side by side that share step 0 and helpers."""

PUBLISHED: dict[str, tuple[str, float]] = {"15-5": ("all", 0.640), "15-1": ("old", 0.657), "10-1": ("old", 0.595)}
"""What the paper's main table gives for a structure with GAN replay, overlapped, on VOC 2012 val."""

STRUCTURE_NAME = "STRUCTURE"


def records() -> list[Experiment]:
    """The eight tests and the pattern for any other structure string."""
    found = []
    for test in TESTS:
        joint = test.name == "JOINT"
        found.append(
            _record(
                test.name,
                f"{_words(test.sizes)} (test {test.index} of the paper)",
                test.aliases,
                {"dataset.structure": "joint" if joint else test.structure}
                | ({"dataset.protocol_first": "sequential", "learner.parameters_first_step_index": 0} if joint else {}),
                comparisons={} if joint else {"fine-tuning": FINE_TUNING},
                default=test.name == "ADD_ONE_FIVE_TIMES",
            )
        )
    found.append(
        _record(
            STRUCTURE_NAME,
            "any structure string, as 4-1 on 8 classes",
            (),
            {},
            comparisons={"fine-tuning": FINE_TUNING},
            pattern=STRUCTURE,
        )
    )
    return found


def _record(
    name: str,
    summary: str,
    aliases: tuple[str, ...],
    settings: dict[str, Any],
    *,
    comparisons: dict[str, Any],
    default: bool = False,
    pattern: str = "",
) -> Experiment:
    return Experiment(
        name=name,
        summary=summary,
        aliases=aliases,
        settings={"learner": "recall:recall"} | settings,
        profiles={
            "tiny": {"dataset": "recall:shapes", "model": "recall:small"},
            "small": {"dataset": "recall:voc", "model": "recall:small"},
            "paper": {"dataset": "recall:voc", "model": "recall:deeplab"},
        },
        comparisons=comparisons,
        expected=tuple(
            Expected(metric=metric, value=value, where="arXiv 2108.03673, main table, GAN, overlapped, VOC 2012 val")
            for structure, (metric, value) in PUBLISHED.items()
            if structure in aliases
        ),
        default=default,
        pattern=pattern,
        pattern_key="dataset.structure" if pattern else "",
    )


def _words(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return f"all {sizes[0]} classes at once: the upper bound"
    return f"{sizes[0]} classes, then {len(sizes) - 1} x {sizes[1]}"


COMMANDS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "ablate",
        "fine-tuning, LwF, ILT, MiB, PLOP, RECALL and its parts, joint over seeds",
        "ablation:ablate",
        ("tensorflow",),
    ),
    ("summary", "mIoU old/new/all of runs or reports, as table, Markdown or LaTeX", "summary:summary", ()),
    ("validate", "score saved steps of a run again, with the loss", "showing:validate", ("tensorflow",)),
    ("dump", "input, label and prediction pictures of validation images", "showing:dump", ("tensorflow",)),
    ("make-replay", "make replay images: gan, flickr or folder", "making:make_replay", ("tensorflow",)),
    ("map-classes", "which generator class stands for which class", "making:map_classes", ("tensorflow",)),
    ("import-data", "check the authors' data tree", "moving:import_data", ("tensorflow",)),
    ("import-sbd", "SBD's labels into a VOC 2012 tree, with the list trainaug", "moving:import_sbd", ("scipy",)),
    (
        "import-checkpoint",
        "an encoder of another provider, under the reference's names",
        "moving:import_checkpoint",
        ("tensorflow",),
    ),
    (
        "export-checkpoints",
        "a run's weights under the reference's names, TF V2 bundles",
        "moving:export_checkpoints",
        ("tensorflow",),
    ),
    ("make-records", "tfrecords from folders or a list file", "moving:make_records", ("tensorflow",)),
)
"""Name, summary, where, what it needs."""
