"""What is said once for every learner: the section ``train``, and streams that are seen once.

A learner takes from ``train`` what its settings have a name for. What was given to it by name stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import field, frozen, validators

from cl_kernel.contract.errors import BadSetting, Mismatch
from cl_kernel.contract.offers import doc
from cl_kernel.data.stream_options import StreamOptions
from cl_kernel.running.settings import Layer, Resolved, as_plain

SECTION = "train"
positive = validators.optional(validators.gt(0))
not_negative = validators.optional(validators.ge(0))


@frozen(kw_only=True)
class TrainOptions:
    """Settings of training that hold for whatever learner runs; empty ones are each learner's own."""

    lr: float | None = field(default=None, validator=positive, metadata=doc("learning rate"))
    momentum: float | None = field(default=None, validator=not_negative, metadata=doc("momentum of SGD"))
    weight_decay: float | None = field(default=None, validator=not_negative, metadata=doc("weight decay"))
    optimizer: str | None = field(default=None, metadata=doc("sgd, adam or adamw"))
    batch_size: int | None = field(default=None, validator=positive, metadata=doc("new examples a step"))
    epochs: int | None = field(default=None, validator=positive, metadata=doc("passes over a stage"))


def for_learner(asked: Sequence[Layer], name: str, settings: type | None) -> tuple[Layer, dict[str, str]]:
    """What ``train`` says, as settings of the learner; to be laid under what was asked for by the learner's own names.

    :param name: of the learner, as ``clk:er``.
    :return: the layer, and what the learner has no setting for: dotted name -> why.
    """
    given = {k: v for layer in asked for k, v in layer.values.items() if k.startswith(f"{SECTION}.") and v is not None}
    has = set() if settings is None else {a.name for a in attrs.fields(settings)}
    mine, ignored = {}, {}
    for key, value in given.items():
        word = key.partition(".")[2]
        own = word if word in has else f"n_{word}"
        if own in has:
            mine[f"learner.{own}"] = value
        else:
            ignored[key] = f"{name} has no setting {word}"
    return Layer(SECTION, mine), ignored


def once(resolved: Resolved, name: str, size: int) -> Layer:
    """What makes a learner see each sample once, in batches of ``size``.

    :raises ClkError: for a learner that does not say how, and for settings given that say otherwise.
    """
    settings = resolved.sections.get("learner")
    passes: Mapping[str, Any] | None = getattr(type(settings), "ONE_PASS", None)
    if settings is None or passes is None or not hasattr(settings, "batch_size"):
        raise Mismatch(
            f"learner {name} does not say how it learns from samples seen once",
            where="stream.online",
            fix="clk:er, clk:naive or another learner of the library",
        )
    wanted = {f"learner.{key}": value for key, value in {**passes, "batch_size": size}.items()}
    for key, value in wanted.items():
        origin, now = resolved.origins[key], getattr(settings, key.partition(".")[2])
        if now != value and not origin.startswith(("default", "profile ", "test ", SECTION)):
            raise BadSetting(
                f"{key} = {now} ({origin}) and stream.online = {size}, which means {value}",
                where="stream.online",
                fix=f"leave {key} or stream.online out",
            )
    return Layer("stream.online", wanted)


def told_the_task(resolved: Resolved) -> Layer:
    """On a stream of tasks whose label is known, a head a task for learners that can use it."""
    can = getattr(resolved.sections.get("learner"), "heads", "") == "one"
    if can and resolved.sections["stream"].scenario == "task" and resolved.origins["learner.heads"] == "default":
        return Layer("stream.scenario = task", {"learner.heads": "task"})
    return Layer("stream.scenario = task", {})


def check_heads(asked: Sequence[Layer], name: str, settings: type | None) -> None:
    """Refuse a task's label where a learner has no use for it.

    :raises Mismatch: naming the learner.
    """
    has = settings is not None and any(a.name == "heads" for a in attrs.fields(settings))
    if not has and any(key in ("learner.heads", "heads") for layer in asked for key in layer.values):
        raise Mismatch(
            f"learner {name} cannot use the label of a task",
            where="learner.heads",
            fix="clk:fine-tuning, clk:er, clk:ewc, clk:si, clk:mas, clk:gem or clk:agem; any run of a classifier "
            "reports the task-aware accuracy",
        )


LATER = {f"stream.{name}": value for name, value in as_plain(StreamOptions()).items()} | {"run.budget": ""}
"""Settings that runs of earlier releases do not have, with the values that mean the same as their absence."""


def telling(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that tell runs apart: without those that every run has anyway, and those that became the learner's."""
    return {k: v for k, v in flat.items() if not k.startswith(f"{SECTION}.") and not (k in LATER and LATER[k] == v)}
