"""Each setting matters: another value gives another result, or its declaration says why not."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Literal

import attrs
from attrs import define, field

from cl_kernel.contract.errors import ClkError
from cl_kernel.registry import Offer
from cl_kernel.running.effects import PIECES, unmet
from cl_kernel.running.plan import Plan, Request, missing_packages
from cl_kernel.testing.short_runs import dataset_settings, held, outcome, requests, short_plan, stream_of
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, check
from cl_kernel.testing.tracking import tracked

MOST_VALUES = 4
KINDS = ("dataset", "model", "replay", "learner", "metric")
_CACHES = count()


@define
class Doubt:
    """Settings of a piece whose effect has not been seen yet.

    :param open: those left. :param read: those that something read. :param tried: values that changed nothing.
    """

    section: str
    open: dict[str, attrs.Attribute[Any]]
    read: set[str] = field(factory=set)
    tried: dict[str, list[str]] = field(factory=dict)

    def settle(self, name: str) -> None:
        """Its effect has been seen."""
        self.open.pop(name, None)

    def complaint(self, name: str) -> str:
        """What is wrong with one that is left."""
        if name in self.tried:
            return f"{name} (as it is, and {', '.join(self.tried[name])}: the same result)"
        if name in self.read:
            return f"{name} (no other value that was tried is accepted: name one, doc(..., example=VALUE))"
        return f"{name} (nothing reads it)"


@check
def each_setting_matters(subject: Subject) -> str:
    """Another value of a setting gives another result, unless it is declared ``harmless`` with the reason."""
    if subject.owner.about is None or subject.owner.about.spec < 2:
        raise NotApplicable("is of contract 1, which declares nothing about settings")
    pieces = [(kind, o) for kind in KINDS for o in subject.offers(kind) if o.record.settings is not None]
    if not pieces:
        raise NotApplicable("has no piece with settings")
    settled: set[tuple[str, str]] = set()
    wrong, n, skipped = [], 0, []
    for kind, offer in pieces:
        if subject.only and offer.record.name not in subject.only:
            continue
        doubt = doubts(kind, offer)
        found = _look(subject, kind, offer, doubt, settled)
        if not found:
            skipped.append(offer.name)
            continue
        n += len(attrs.fields(offer.record.settings))
        if doubt.open:
            wrong.append(f"{offer.name}: {'; '.join(map(doubt.complaint, doubt.open))}")
    if wrong:
        raise Failed("settings without effect: " + " | ".join(wrong))
    more = f"; without data or weights to run with: {', '.join(skipped)}" if skipped else ""
    return f"{n} settings of {len(pieces) - len(skipped)} pieces, {len(settled)} declarations changed a result{more}"


def doubts(kind: str, offer: Offer) -> Doubt:
    """All settings of a piece that are not declared harmless."""
    section = offer.record.kind if kind == "replay" else kind
    fields = attrs.fields(offer.record.settings)
    return Doubt(section, {a.name: a for a in fields if not {"harmless", "unseen"} & set(a.metadata)})


def declaration(attribute: attrs.Attribute[Any]) -> tuple[str, str]:
    """Name and text of a setting: equal for pieces that inherit it."""
    return attribute.name, str(attribute.metadata.get("doc", ""))


def _look(subject: Subject, kind: str, offer: Offer, doubt: Doubt, settled: set[tuple[str, str]]) -> bool:
    if kind == "dataset":
        return _look_at_data(subject, offer, doubt, settled)
    looked = False
    for request in requests(subject, kind, offer):
        looked |= _vary(subject, request, doubt, settled)
        if not doubt.open:
            break
    return looked


# ---- data sets ---------------------------------------------------------------------------------------------------


def _look_at_data(subject: Subject, offer: Offer, doubt: Doubt, settled: set[tuple[str, str]]) -> bool:
    example = subject.example(offer)
    if example is None:
        if offer.record.assets or offer.record.own or missing_packages(offer):
            return False
        example = {}
    roots = tuple(map(str, example.get("data_roots", ())))
    base = {key: value for key, value in example.items() if key != "data_roots"}
    short = _builds(subject, offer, base, roots, short=True)
    if not short and not _builds(subject, offer, base, roots, short=False):
        return False

    def result(changes: Mapping[str, Any]) -> str:
        settings = dataset_settings(subject, offer, {**base, **changes}, short=short)
        return held(stream_of(subject, offer, settings, roots))

    for name in [name for name in doubt.open if f"dataset.{name}" in base and doubt.open[name].metadata.get("counted")]:
        doubt.settle(name)  # names the input, whose bytes are looked at by another check
    for name, attribute in list(doubt.open.items()):
        needs = {f"dataset.{key}": _wanted(value) for key, value in attribute.metadata.get("when", {}).items()}
        if "dataset.piece" in needs and offer.record.name not in attribute.metadata["when"]["piece"]:
            doubt.settle(name)  # refused for this piece, so never without effect
            continue
        needs.pop("dataset.piece", None)
        now = getattr(dataset_settings(subject, offer, {**base, **needs}, short=short), name)
        before = result(needs)
        doubt.read.add(name)
        for value in others(attribute, typing.get_type_hints(offer.record.settings)[name], now):
            try:
                after = result({**needs, f"dataset.{name}": value})
            except ClkError:
                continue
            if after != before:
                doubt.settle(name)
                settled.add(declaration(attribute))
                break
            doubt.tried.setdefault(name, []).append(repr(value))
    return True


def _builds(subject: Subject, offer: Offer, base: Mapping[str, Any], roots: tuple[str, ...], *, short: bool) -> bool:
    """Whether a data set can be built here, with what makes the plugin's own test short."""
    try:
        stream_of(subject, offer, dataset_settings(subject, offer, base, short=short), roots)
    except ClkError:
        return False
    return True


# ---- runs --------------------------------------------------------------------------------------------------------


def _vary(subject: Subject, request: Request, doubt: Doubt, settled: set[tuple[str, str]]) -> bool:
    """One short run as it is, then one for each setting that it reads and whose effect was never seen.

    :return: whether the piece could be run here.
    """
    ran = False
    for needs, names in _by_needs(subject, request, doubt).items():
        extra = dict(needs)
        try:
            planned = short_plan(subject, request, extra)
        except ClkError:
            continue
        if doubt.section not in planned.resolved.sections:
            return ran
        read: set[str] = set()
        plain = planned.resolved.sections[doubt.section]
        planned.resolved.sections[doubt.section] = tracked(plain, read)
        cache = f"settings-{next(_CACHES)}"  # one that reuses what another run trained reads less
        try:
            before = outcome(subject, planned, cache)
        except ClkError:
            continue
        ran = True
        for name in names:
            attribute = doubt.open[name]
            if name in read or _moves_others(subject, request, extra, planned, doubt.section, attribute):
                doubt.read.add(name)
                if declaration(attribute) in settled:
                    doubt.settle(name)
                elif _one(subject, request, extra, before, doubt, attribute, getattr(plain, name), cache):
                    doubt.settle(name)
                    settled.add(declaration(attribute))
    return ran


def _by_needs(subject: Subject, request: Request, doubt: Doubt) -> dict[tuple[tuple[str, Any], ...], list[str]]:
    """Settings left, by the values that others must have for them to be read."""
    planned = short_plan(subject, request, {})
    groups: dict[tuple[tuple[str, Any], ...], list[str]] = {(): []}
    for name, attribute in doubt.open.items():
        missing = unmet(planned, doubt.section, attribute.metadata.get("when", {}))
        if missing.keys() & {"piece", *PIECES}:
            continue
        needs = {k if "." in k else f"{doubt.section}.{k}": _wanted(v) for k, v in missing.items()}
        needs = {key: _on(planned, key) if value is True else value for key, value in needs.items()}
        groups.setdefault(tuple(sorted(needs.items())), []).append(name)
    for name, attribute in list(doubt.open.items()):
        if "piece" in unmet(planned, doubt.section, attribute.metadata.get("when", {})):
            doubt.settle(name)  # refused for this piece, so never without effect
    return {needs: names for needs, names in groups.items() if names}


def _on(planned: Plan, key: str) -> Any:
    """A value of a setting that is not off, empty or zero."""
    settings = planned.resolved.sections[key.split(".", 1)[0]]
    name = key.split(".", 1)[1]
    attribute = getattr(attrs.fields(type(settings)), name)
    hint = typing.get_type_hints(type(settings))[name]
    return next((value for value in others(attribute, hint, getattr(settings, name)) if value), True)


def _wanted(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _moves_others(
    subject: Subject,
    request: Request,
    extra: Mapping[str, Any],
    planned: Plan,
    section: str,
    attribute: attrs.Attribute[Any],
) -> bool:
    """Whether another value changes other settings, as a row of a table of presets does."""
    hint = typing.get_type_hints(type(planned.resolved.sections[section]))[attribute.name]
    key = f"{section}.{attribute.name}"
    for value in others(attribute, hint, getattr(planned.resolved.sections[section], attribute.name)):
        try:
            flat = short_plan(subject, request, {**extra, key: value}).resolved.flat()
        except ClkError:
            continue
        return any(flat[k] != v for k, v in planned.resolved.flat().items() if k != key and k in flat)
    return False


def _one(
    subject: Subject,
    request: Request,
    extra: Mapping[str, Any],
    before: str,
    doubt: Doubt,
    attribute: attrs.Attribute[Any],
    now: Any,
    cache: str,
) -> bool:
    key = f"{doubt.section}.{attribute.name}"
    cls = type(short_plan(subject, request, extra).resolved.sections[doubt.section])
    for value in others(attribute, typing.get_type_hints(cls)[attribute.name], now):
        try:
            after = outcome(subject, short_plan(subject, request, {**extra, key: value}), cache)
        except ClkError:
            continue
        if after != before:
            return True
        doubt.tried.setdefault(attribute.name, []).append(repr(value))
    return False


# ---- other values ------------------------------------------------------------------------------------------------


def others(attribute: attrs.Attribute[Any], hint: Any, now: Any) -> list[Any]:
    """Values of a setting other than the present one: the declared example, then some of its type."""
    found = [attribute.metadata["example"]] if "example" in attribute.metadata else []
    found += [*_options(attribute, hint), *_alike(now, hint)]
    kept: list[Any] = []
    for value in found:
        if value not in kept and value != now and not (isinstance(value, list) and tuple(value) == now):
            kept.append(value)
    return kept[:MOST_VALUES]


def _options(attribute: attrs.Attribute[Any], hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) is Literal:
        yield from typing.get_args(hint)
    validator = attribute.validator
    if validator is not None and hasattr(validator, "options"):
        yield from validator.options


def _alike(now: Any, hint: Any) -> list[Any]:
    if isinstance(now, bool):
        return [not now]
    if isinstance(now, int):
        return [2 * now + 1, max(now - 1, 0), 2 * now, now + 1] if now > 0 else [1, 2, now + 5]
    if isinstance(now, float):
        return [1.0, 0.1] if not math.isfinite(now) else [now / 2, now * 2, 0.9] if now else [0.5, 0.01, 2.0]
    if isinstance(now, (tuple, list)):
        return _sequences(list(now), hint)
    if now is None:
        return [1, 0.5, "1"]
    return []


def _sequences(now: list[Any], hint: Any) -> list[Any]:
    if not now:
        inner = (typing.get_args(hint) or (str,))[0]
        return [[1], [0, 1]] if inner is int else [[0.5], [0.5, 0.2]] if inner is float else []
    changed = [next(iter(_alike(v, None)), v) for v in now]
    return [changed, now[:-1], now[::-1], [*changed[:1], *now[1:]]]
