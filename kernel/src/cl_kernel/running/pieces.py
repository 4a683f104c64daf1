"""Which pieces a request means: short names are the candidates that fit the rest of it, and what does not fit is said.

Nothing is imported or built here.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from cl_kernel.contract.errors import BadSetting, Mismatch
from cl_kernel.registry import BUILTIN, Offer, Registry

ACCEPTED_AS = {"policy": "memory", "codec": "memory", "source": "source"}
Pieces = dict[str, tuple[Offer, str]]


def find_pieces(registry: Registry, chosen: Mapping[str, Any], prefer: str) -> tuple[Pieces, list[Offer]]:
    """Data set, learner, model, memory and metrics by name.

    :param chosen: kind -> name as asked for or as the test says.
    :param prefer: plugin whose piece a short name means first.
    :raises ClkError: naming the pieces that do not fit each other.
    """
    for kind in ("dataset", "learner"):
        if not chosen.get(kind):
            raise BadSetting(
                f"no {kind} chosen", where="clk run", fix=f"give --test NAME, or --{kind} NAME (clk list {kind}s)"
            )
    learner, pieces = _learner_and_dataset(registry, str(chosen["learner"]), str(chosen["dataset"]), prefer)
    record = learner.record
    given = {kind: chosen.get(kind) for kind in ("model", "replay")}
    wanted = {kind: str(given[kind] or record.defaults.get(kind, "")) for kind in given}
    if wanted["model"] and wanted["model"] != "none":
        pieces["model"] = _model(registry, wanted["model"], learner, prefer if given["model"] else "")
    if wanted["replay"] and wanted["replay"] != "none":
        _add_replay(registry, pieces, wanted["replay"], learner, prefer if given["replay"] else "")
    names = chosen.get("metrics") or record.metrics
    names = [names] if isinstance(names, str) else list(names)
    metrics = [registry.find("metric", part, prefer=learner.plugin)[0] for name in names for part in name.split(",")]
    return pieces, metrics


def _takes(learner: Offer, dataset: Offer) -> bool:
    return any(fnmatch.fnmatchcase(dataset.record.task, pattern) for pattern in learner.record.takes)


def _foreign(pair: tuple[Offer, Offer]) -> int:
    """How many of the two are not the kernel's own."""
    return sum(offer.plugin != BUILTIN for offer in pair)


def _learner_and_dataset(registry: Registry, learner: str, dataset: str, prefer: str) -> tuple[Offer, Pieces]:
    names = {"learner": learner, "dataset": dataset}
    learners, sets = ([o for o, _ in registry.candidates(kind, name, prefer=prefer)] for kind, name in names.items())
    pairs = sorted(((one, two) for one in learners for two in sets if _takes(one, two)), key=_foreign)
    nearest = [one.name for one, two in pairs if _foreign((one, two)) == _foreign(pairs[0])]
    found, extra = registry.find("learner", learner, prefer=prefer, fits=lambda offer: offer.name in nearest)
    if extra:
        raise BadSetting(f"learner {found.name} takes no argument, but {extra!r} was given", where="--learner")
    data, argument = registry.find("dataset", dataset, prefer=prefer, fits=lambda offer: _takes(found, offer))
    if not _takes(found, data):
        raise Mismatch(
            f"learner {found.name} takes {' or '.join(found.record.takes)}, but data set {data.name} asks "
            f"{data.record.task}",
            where="--learner/--dataset",
            fix="clk list learners",
        )
    return found, {"dataset": (data, argument), "learner": (found, "")}


def _model(registry: Registry, name: str, learner: Offer, prefer: str) -> tuple[Offer, str]:
    found = registry.find(
        "model",
        name,
        prefer=prefer or learner.plugin,
        fits=lambda offer: offer.record.framework == learner.record.framework,
    )
    offer = found[0]
    _accepted(learner, "model", offer)
    if offer.record.framework != learner.record.framework:
        raise Mismatch(
            f"model {offer.name} is {offer.record.framework}, learner {learner.name} is {learner.record.framework}",
            where="--model/--learner",
            fix="clk list models",
        )
    return found


def _add_replay(registry: Registry, pieces: Pieces, names: str, learner: Offer, prefer: str) -> None:
    framework = learner.record.framework
    for text in _split_replay(names):
        offer, argument = registry.find(
            "replay",
            text,
            prefer=prefer or learner.plugin,
            fits=lambda offer: (
                ACCEPTED_AS[offer.record.kind] in learner.record.accepts
                and offer.record.framework in ("numpy", framework)
            ),
        )
        kind = offer.record.kind
        if kind in pieces:
            raise Mismatch(
                f"two pieces of kind {kind}: {pieces[kind][0].name} and {offer.name}",
                where="--replay",
                fix="--replay POLICY+CODEC",
            )
        _accepted(learner, ACCEPTED_AS[kind], offer)
        if offer.record.framework not in ("numpy", framework):
            raise Mismatch(
                f"{kind} {offer.name} is {offer.record.framework}, learner {learner.name} is {framework}",
                where="--replay/--learner",
            )
        pieces[kind] = (offer, argument)
    if ("policy" in pieces) != ("codec" in pieces):
        default = {"policy": "clk:reservoir", "codec": "clk:raw"}
        for kind in default.keys() - pieces.keys():
            pieces[kind] = registry.find("replay", default[kind])
    if "source" in pieces and "policy" in pieces:
        raise Mismatch("a source keeps nothing, so it takes no policy or codec", where="--replay")


def _split_replay(text: str) -> list[str]:
    _, colon, path = text.partition(":")
    if colon and ("/" in path or path.startswith(".")):
        return [text]
    return text.split("+")


def _accepted(learner: Offer, piece: str, offer: Offer) -> None:
    if piece not in learner.record.accepts:
        has = ", ".join(learner.record.accepts) or "none"
        raise Mismatch(
            f"learner {learner.name} accepts no {piece}, but {offer.name} was given; it accepts: {has}",
            where="--replay" if piece != "model" else "--model",
            fix="clk list learners",
        )
