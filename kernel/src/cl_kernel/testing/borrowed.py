"""A run for a plugin that has no test of its own: its pieces, with what is missing taken from the kernel."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

from cl_kernel.registry import Offer, Registry
from cl_kernel.running.plan import importable

DATASETS = ("clk:blobs", "clk:digits")
LEARNERS = ("clk:linear", "clk:er")


def pieces(registry: Registry, offers: Callable[..., list[Offer]], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Names of pieces that run together and use as many of the plugin's as fit; empty when none do.

    :param offers: the plugin's own offers by kind.
    :param settings: pieces that the author chose.
    """
    learners = _named(registry, "learner", settings.get("learner")) or offers("learner") or _kernel(registry, LEARNERS)
    mine = [offer for offer in offers("dataset") if not offer.record.assets and not offer.record.own]
    datasets = _named(registry, "dataset", settings.get("dataset")) or mine or _kernel(registry, DATASETS)
    model = next(iter(offers("model")), None)
    if model is not None and not offers("learner"):
        learners = [offer for offer in _kernel(registry, LEARNERS) if offer.record.framework == model.record.framework]
    pair = _fitting(learners, datasets) or _fitting(learners, _kernel(registry, DATASETS))
    if pair is None:
        return {}
    learner, dataset = pair
    chosen: dict[str, Any] = {"learner": learner.name, "dataset": dataset.name}
    if model is not None and "model" in learner.record.accepts:
        chosen["model"] = model.name
    if "memory" in learner.record.accepts and (replay := _replay(offers("replay"))):
        chosen |= {"replay": replay, "run.memory": "30"}
    fields = {word.strip() for word in dataset.record.task.partition("->")[2].split("+")}
    metrics = [offer.name for offer in offers("metric") if offer.record.target in fields]
    if metrics:
        chosen["metrics"] = [*metrics, *(name for name in learner.record.metrics if name not in metrics)]
    own = [key for key, name in chosen.items() if key == "metrics" or not str(name).startswith(("clk:", "30"))]
    return chosen if own else {}


def _kernel(registry: Registry, names: tuple[str, ...]) -> list[Offer]:
    found = {offer.name: offer for kind in ("learner", "dataset") for offer in registry.all(kind)}
    return [found[name] for name in names if all(map(importable, found[name].record.requires))]


def _named(registry: Registry, kind: str, name: Any) -> list[Offer]:
    return [offer for offer, _ in registry.candidates(kind, str(name), prefer="")] if name else []


def _fitting(learners: list[Offer], datasets: list[Offer]) -> tuple[Offer, Offer] | None:
    pairs = ((one, two) for one in learners for two in datasets)
    return next((p for p in pairs if any(fnmatch.fnmatchcase(p[1].record.task, t) for t in p[0].record.takes)), None)


def _replay(replays: list[Offer]) -> str:
    """The plugin's policy with its codec, or with the kernel's other half."""
    by_kind = {offer.record.kind: offer.name for offer in reversed(replays)}
    if "policy" not in by_kind and "codec" not in by_kind:
        return ""
    return f"{by_kind.get('policy', 'clk:reservoir')}+{by_kind.get('codec', 'clk:raw')}"
