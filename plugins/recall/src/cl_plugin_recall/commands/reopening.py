"""A finished or interrupted run opened again: its stream, and its learner with the weights of a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from cl_kernel import BadInput, Setup, build_stream, discover, make_resources, plan, request_of, resolve


def reopen(folder: Path, step: int | None, data_roots: Sequence[str] = ()) -> tuple[Any, int]:
    """The learner of a run folder with the weights it had after a step (the last one if None).

    What the run was asked is planned as when it is resumed.

    :param data_roots: where the data lies now, if it moved.
    :raises BadInput: when the run saved no such step.
    """
    from cl_plugin_recall.weights import checkpoints, saved

    steps = saved.steps(folder)
    if not steps or (step is not None and step not in steps):
        raise BadInput(
            f"run saved no weights of step {step}" if step is not None else "run saved no weights",
            where=str(folder),
            fix=f"saved steps: {', '.join(map(str, steps)) or 'none'}",
        )
    step = max(steps) if step is None else step
    request = request_of(folder, data_roots)
    registry = discover()
    planned = plan(registry, request)
    resources = make_resources(registry, planned, None, lambda event: None)
    sections, pieces = planned.resolved.sections, planned.pieces
    stream = build_stream(pieces["dataset"][0], sections.get("dataset"), resources)
    model = resolve(pieces["model"][0].record.build)
    setup = Setup(
        stream=stream, resources=resources, model=lambda fields, n: model(sections.get("model"), fields, n, resources)
    )
    settings: Any = attrs.evolve(sections["learner"], devices=1)
    if hasattr(settings, "interleave_ratio_old"):
        settings = attrs.evolve(settings, interleave_ratio_old=0, interleave_ratio_new=1)
    learner = resolve(pieces["learner"][0].record.build)(settings, setup)
    encoder = max(k for k in saved.encoders(folder) if k <= step)
    learner.encoder.assign(_load(saved.encoder(folder, encoder), learner.encoder, checkpoints))
    learner.decoder.assign(_load(saved.decoder(folder, step), learner.decoder, checkpoints))
    return learner, step


def _load(prefix: Path, part: Any, checkpoints: Any) -> Any:
    return checkpoints.load(prefix, {name: tuple(v.shape) for name, v in part.named.items()})
