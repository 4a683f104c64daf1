"""Counter-stream step against a plain re-statement of the original's, preparation speed and size, bytes a task.

Run: ``python bench/butd.py [--quick]``; writes ``bench/results/butd.json`` and ``butd.md``; nothing with ``--quick``.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import torch
from PIL import Image
from skimage.transform import resize

from cl_kernel import Cache, Resources
from cl_plugin_butd import settings as butd_settings
from cl_plugin_butd.data import glyphs, sets, spatial
from cl_plugin_butd.method.losses import instruction_loss
from cl_plugin_butd.network import counter_stream, streams
from cl_plugin_butd.network.blocks import Gate, Norm
from cl_plugin_butd.network.continual import ContinualCounterStream, ModulationSpec, TaskSpec
from cl_plugin_butd.network.counter_stream import CounterStream
from cl_plugin_butd.network.streams import Topology

_spec = importlib.util.spec_from_file_location("_report", Path(__file__).parent / "_report.py")
assert _spec is not None and _spec.loader is not None
report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(report)

EMNIST = {
    "filters": [64, 96, 128, 256],
    "strides": [2, 2, 1, 2],
    "blocks": [0, 1, 1, 1],
    "in_shape": [3, 112, 224],
    "instruction": 49,
    "n_occurrence": 47,
    "outputs": [49],
}


def plain_combine(
    x: torch.Tensor, lateral: torch.Tensor, gate: Gate, norm: Norm, *, inner_relu: bool = True, task: object = None
) -> torch.Tensor:
    """As the original wrote it: nothing in place."""
    side = norm(gate(lateral))
    return torch.relu(x + (torch.relu(side) if inner_relu else side))


class PlainStep:
    """The original's step: both stems computed, nothing in place, projection behind the upsampling."""

    def __init__(self) -> None:
        self.net = CounterStream(Topology(**EMNIST, reorder=False))

    def __call__(self, image: torch.Tensor, flag: torch.Tensor) -> counter_stream.Outputs:
        net = self.net
        bu1, laterals = net.bu1(net.filters, net.filters.stem(image))
        _td, sent, _, _ = net.td(bu1, laterals, flag)
        answer, _ = net.bu2(net.filters, net.filters.stem(image), sent, flag)
        return counter_stream.Outputs(
            occurrence=net.occurrence(bu1.flatten(1)), task=net.task(answer.flatten(1)), td_image=None
        )


def training_step(batch: int, n_rounds: int) -> dict[str, float]:
    """Ours as it trains (channels last) and with plain layout, beside the plain step; all in one process."""
    torch.manual_seed(0)
    image = torch.rand(batch, 3, 112, 224) * 255
    flag = torch.zeros(batch, 49).scatter_(1, torch.arange(batch)[:, None] % 49, 1.0)
    labels, existence = torch.arange(batch)[:, None] % 47, torch.zeros(batch, 47)

    def stepper(
        forward: Callable[..., counter_stream.Outputs], net: torch.nn.Module, layout: torch.memory_format
    ) -> Callable[[], None]:
        optimizer = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=2e-4)
        x = image.contiguous(memory_format=layout)

        def step() -> None:
            loss = instruction_loss(forward(x, flag), labels, existence).total
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step

    plain, nchw, ours = PlainStep(), CounterStream(Topology(**EMNIST)), CounterStream(Topology(**EMNIST))
    ours.to(memory_format=torch.channels_last)
    plain_step = stepper(plain, plain.net, torch.contiguous_format)

    def as_written() -> None:
        kept = streams.combine, streams.rectified
        streams.combine = plain_combine
        streams.rectified = lambda x, norm, task=None: torch.relu(norm(x))
        try:
            plain_step()
        finally:
            streams.combine, streams.rectified = kept

    found = report.rounds(
        {
            "plain": as_written,
            "ours_plain_layout": stepper(nchw, nchw, torch.contiguous_format),
            "ours": stepper(ours, ours, torch.channels_last),
        },
        n_rounds,
    )
    return {
        "batch": batch,
        **{f"{name}_s": statistics.median(values) for name, values in found.items()},
        "speedup_plain_layout": 1 / report.ratio(found, "ours_plain_layout", "plain"),
        "speedup": 1 / report.ratio(found, "ours", "plain"),
    }


def preparation(share: int) -> dict[str, float]:
    """A six-character set in the published proportions, 1 / ``share`` of its pictures, drawn from digits.

    Beside it a writer of two JPEGs and a pickle a question, in one process, on every fourth picture.
    """
    n = 2000 // share
    chosen = butd_settings.Spatial(variant="custom", source="digits", n_train=n, n_test=n, n_val=n)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, recipe = glyphs.digits(), sets.spatial_recipe(chosen)
        resources = Resources(cache=Cache(folder / "cache"))
        sets.spatial_set(attrs.evolve(chosen, n_train=5, n_test=5, n_val=5), resources)  # imports
        start = time.perf_counter()
        made = sets.spatial_set(chosen, resources)
        ours = time.perf_counter() - start
        start = time.perf_counter()
        sets.spatial_set(chosen, resources)
        again = time.perf_counter() - start
        questions = sum(split["questions"] for split in made.manifest["splits"].values())
        parts = {split: _on_disk(made.folder / split) for split in made.manifest["splits"]}
        ours_resized, spatial.resized = spatial.resized, plain_resized
        start, count = time.perf_counter(), 0
        for i, (split, picture) in enumerate(spatial.pictures(recipe, source)):
            if i % 4 == 0:
                for _, place in picture.questions:
                    _write_as_published(folder / "jpeg" / split, count, recipe, source, picture, place)
                    count += 1
        theirs = time.perf_counter() - start
        spatial.resized = ours_resized
        their_bytes, their_disk = _on_disk(folder / "jpeg")
        n_files = sum(f.is_file() for f in made.folder.rglob("*"))
    n_train = made.manifest["splits"]["train"]["questions"]
    return {
        "pictures": 3 * n,
        "questions": questions,
        "ours_questions_per_s": questions / ours,
        "jpeg_writer_questions_per_s": count / theirs,
        "speedup": (questions / ours) / (count / theirs),
        "second_time_s": again,
        "files": n_files,
        "ours_bytes": sum(size for size, _ in parts.values()) / questions,
        "ours_bytes_train": parts["train"][0] / n_train,
        "ours_disk": sum(disk for _, disk in parts.values()) / questions,
        "ours_disk_train": parts["train"][1] / n_train,
        "jpeg_bytes": their_bytes / count,
        "jpeg_disk": their_disk / count,
        "share_of_disk": sum(disk for _, disk in parts.values()) / questions / (their_disk / count),
        "share_of_disk_train": parts["train"][1] / n_train / (their_disk / count),
    }


def plain_resized(glyph: np.ndarray, side: int) -> np.ndarray:
    """As published, with scikit-image."""
    return resize(glyph, (side, side), mode="constant")


def _on_disk(folder: Path) -> tuple[int, int]:
    """Bytes of content and bytes of blocks below a folder."""
    stats = [f.stat() for f in folder.rglob("*") if f.is_file()]
    return sum(s.st_size for s in stats), sum(s.st_blocks * 512 for s in stats)


def _write_as_published(
    folder: Path,
    number: int,
    recipe: spatial.SpatialRecipe,
    source: glyphs.Glyphs,
    picture: spatial.Picture,
    place: int,
) -> None:
    target = folder / str(number // 1000)
    target.mkdir(parents=True, exist_ok=True)
    for suffix, only in (("img", None), ("seg", place)):
        drawn = spatial.render(recipe, source, picture, only=only)
        handle = io.BytesIO()
        Image.fromarray(np.repeat(drawn[..., None], 3, 2)).save(handle, "JPEG", quality=75)
        (target / f"{number}_{suffix}.jpg").write_bytes(handle.getvalue())
    table = {
        "id": number,
        "label_existence": np.zeros(47, int),
        "label_ordered": np.zeros((4, 6), int),
        "query_part_id": place,
        "label_task": np.zeros(1, int),
        "flag": np.zeros(2, int),
    }
    (target / f"{number}_raw.pkl").write_bytes(pickle.dumps(table))


def task_bytes() -> dict[str, float]:
    net = ContinualCounterStream(
        Topology(
            filters=[64, 64, 96, 96],
            strides=[2, 2, 1, 2],
            blocks=[0, 1, 1, 1],
            in_shape=[3, 128, 128],
            n_occurrence=47,
            separable=False,
        ),
        [TaskSpec(n_classes=48)] * 2,
        [47],
        ModulationSpec(kind="weight-mul", factor=(8, 8, 1, 1)),
    )
    parts = net.bytes_per_task()
    modulated = sum(
        4 * layer.weight.numel()
        for stage in net.net.filters.stages
        for block in stage
        for layer in (block.conv1, block.conv2, block.project)
        if layer is not None
    )
    theory = modulated / 64 + parts["head"] + parts["statistics"]
    return {
        **parts,
        "total": sum(parts.values()),
        "theory": theory,
        "ratio": sum(parts.values()) / theory,
        "network": 4 * sum(p.numel() for p in net.net.parameters()),
    }


def pages(found: dict[str, dict[str, float]]) -> list[str]:
    """The results in words."""
    step, made, task = found["step"], found["preparation"], found["bytes_per_task"]
    return [
        "## Training step",
        f"EMNIST network (592,691 parameters), batch {step['batch']}, Adam, float32; median of alternating rounds:",
        report.table(
            ("step", "seconds", "times the plain one's speed"),
            [
                ["plain re-statement of the original's", step["plain_s"], 1.0],
                ["ours, plain layout", step["ours_plain_layout_s"], step["speedup_plain_layout"]],
                ["ours, channels last (the default)", step["ours_s"], step["speedup"]],
            ],
        ),
        "Goal: 1.3. What limits it now: memory traffic; depthwise convolutions and batch norms read and write every "
        "map once an operation, and eager PyTorch fuses none of them.",
        "## Preparation",
        f"{made['pictures']:,} pictures, {made['questions']:,} questions, six digits each, in the proportions of the "
        "published sufficient set; the peer resizes with scikit-image and writes two JPEGs and a pickle a question:",
        report.table(
            ("", "questions/s", "bytes", "bytes of disk blocks", "the same, training part"),
            [
                ["ours", made["ours_questions_per_s"], made["ours_bytes"], made["ours_disk"], made["ours_disk_train"]],
                ["a file each", made["jpeg_writer_questions_per_s"], made["jpeg_bytes"], made["jpeg_disk"], "-"],
            ],
        ),
        f"{made['speedup']:.1f} times as fast (goal: 5); {made['share_of_disk']:.3f} of the disk, "
        f"{made['share_of_disk_train']:.3f} for the training part (goal: 0.1); {made['files']} files in all; "
        f"preparing again takes {made['second_time_s']:.2f} s.",
        "What limits it now: speed, the published order of random draws, one character at a time; bytes, the grey "
        "levels of resized digits, which deflate to two fifths; test and val ask one question a picture, training "
        "five.",
        "## Bytes of a further task",
        report.table(
            ("modulation", "head", "statistics", "total", "theory", "total / theory", "whole network"),
            [[*(task[k] for k in ("modulation", "head", "statistics", "total", "theory", "ratio", "network"))]],
        ),
        "Theory: 1/64 of the modulated filters, one head, two statistics a channel. What limits it now: the statistics "
        "of three streams; the modulation is the smaller part.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="smaller, writes nothing")
    quick = parser.parse_args().quick
    found = {
        "step": training_step(2 if quick else 10, 2 if quick else 7),
        "preparation": preparation(20 if quick else 1),
        "bytes_per_task": task_bytes(),
    }
    if quick:
        print("\n\n".join(pages(found)))
    else:
        report.write("butd", "BU-TD", found, pages(found), about=report.machine("torch", "numpy"))


if __name__ == "__main__":
    main()
