"""Trackers of the kernel: JSONL in the run folder, TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from cl_kernel.contract import events
from cl_kernel.storage.files import full_disk_named, plain

Tell = Callable[[events.Event], None]


def build_jsonl(folder: Path) -> Tell:
    """Every event as a line of ``events.jsonl``."""
    path = folder / "events.jsonl"

    def tell(event: events.Event) -> None:
        record = {"event": type(event).__name__, "time": round(time.time(), 3), **attrs.asdict(event)}
        with full_disk_named(path), path.open("a") as file:
            file.write(json.dumps(record, default=plain) + "\n")

    return tell


def build_tensorboard(folder: Path) -> Tell:
    """Losses and scores as TensorBoard scalars in ``tensorboard/``."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), flush_secs=10)

    def tell(event: events.Event) -> None:
        match event:
            case events.Progress():
                for name, value in event.values.items():
                    writer.add_scalar(f"train/{name}", value, event.step)
                writer.add_scalar("train/steps_per_s", event.rate, event.step)
            case events.Scored() if event.label == "":
                for name, score in event.row.items():
                    if score is not None:
                        writer.add_scalar(f"test/{name}", score, event.stage)
            case events.RunEnded() | events.RunFailed():
                writer.close()
            case _:
                pass

    return tell
