"""Counter-stream step against a plain re-statement of the original's, preparation speed and size, bytes a task.

Run: ``python bench/butd.py [--quick]``; writes ``bench/results/butd.json`` and ``butd.md``.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cl_kernel import Cache, Site
from cl_plugin_butd import settings as butd_settings
from cl_plugin_butd.data import glyphs, prepare, spatial
from cl_plugin_butd.losses import instruction_loss
from cl_plugin_butd.model import counter_stream
from cl_plugin_butd.model.blocks import Gate, Norm
from cl_plugin_butd.model.continual import ContinualCounterStream, ModulationSpec, TaskSpec
from cl_plugin_butd.model.counter_stream import CounterStream, Topology

RESULTS = Path(__file__).parent / "results"
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


def seconds(step: Callable[[], None], repeat: int) -> float:
    """Fastest of several."""
    step()
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return best


def training_step(batch: int, repeat: int) -> dict[str, float]:
    torch.manual_seed(0)
    image = torch.rand(batch, 3, 112, 224) * 255
    flag = torch.zeros(batch, 49).scatter_(1, torch.arange(batch)[:, None] % 49, 1.0)
    labels, existence = torch.arange(batch)[:, None] % 47, torch.zeros(batch, 47)
    found = {}

    def measured(
        forward: Callable[..., counter_stream.Outputs],
        parameters: list[torch.nn.Parameter],
        layout: torch.memory_format,
    ) -> float:
        optimizer = torch.optim.Adam(parameters, 1e-3, weight_decay=2e-4)
        x = image.contiguous(memory_format=layout)

        def step() -> None:
            loss = instruction_loss(forward(x, flag), labels, existence).total
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return seconds(step, repeat)

    plain = PlainStep()
    original, counter_stream.combine = counter_stream.combine, plain_combine
    rectified, counter_stream.rectified = counter_stream.rectified, lambda x, norm, task=None: torch.relu(norm(x))
    try:
        found["plain_s"] = measured(plain, list(plain.net.parameters()), torch.contiguous_format)
    finally:
        counter_stream.combine, counter_stream.rectified = original, rectified
    ours = CounterStream(Topology(**EMNIST))
    found["ours_s"] = measured(ours, list(ours.parameters()), torch.contiguous_format)
    ours.to(memory_format=torch.channels_last)
    found["channels_last_s"] = measured(ours, list(ours.parameters()), torch.channels_last)
    try:
        compiled = torch.compile(CounterStream(Topology(**EMNIST)))
        found["compiled_s"] = measured(compiled, list(compiled.parameters()), torch.contiguous_format)
    except Exception as error:  # no compiler on this machine
        found["compiled_error"] = str(error).splitlines()[0][:120]
    best = min(v for k, v in found.items() if k in ("ours_s", "channels_last_s", "compiled_s"))
    return {
        **found,
        "batch": batch,
        "speedup_eager": found["plain_s"] / min(found["ours_s"], found["channels_last_s"]),
        "speedup_best": found["plain_s"] / best,
    }


def preparation(n: int) -> dict[str, float]:
    """Ours against a writer of two JPEGs and a pickle a question, in one process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = glyphs.digits()
        chosen = butd_settings.Spatial(variant="custom", source="digits", n_train=n, n_test=20, n_val=20)
        recipe = prepare.spatial_recipe(chosen)
        start = time.perf_counter()
        made = prepare.spatial_set(chosen, Site(cache=Cache(folder / "cache")))
        ours = time.perf_counter() - start
        questions = sum(s["questions"] for s in made.manifest["splits"].values())
        size = sum(f.stat().st_size for f in made.folder.rglob("*") if f.is_file())
        disk = sum(f.stat().st_blocks * 512 for f in made.folder.rglob("*") if f.is_file())
        start, count, their_size, their_disk = time.perf_counter(), 0, 0, 0
        for split, picture in spatial.pictures(recipe, source):
            for _, place in picture.questions:
                place_folder = folder / "jpeg" / split / str(count // 1000)
                place_folder.mkdir(parents=True, exist_ok=True)
                for suffix, only in (("img", None), ("seg", place)):
                    drawn = spatial.render(recipe, source, picture, only=only)
                    handle = io.BytesIO()
                    Image.fromarray(np.repeat(drawn[..., None], 3, 2)).save(handle, "JPEG", quality=75)
                    (place_folder / f"{count}_{suffix}.jpg").write_bytes(handle.getvalue())
                table = {
                    "id": count,
                    "label_existence": np.zeros(47, int),
                    "label_ordered": np.zeros((4, 6), int),
                    "query_part_id": place,
                    "label_task": np.zeros(1, int),
                    "flag": np.zeros(2, int),
                }
                (place_folder / f"{count}_raw.pkl").write_bytes(pickle.dumps(table))
                count += 1
        theirs = time.perf_counter() - start
        for f in (folder / "jpeg").rglob("*"):
            if f.is_file():
                their_size += f.stat().st_size
                their_disk += f.stat().st_blocks * 512
    return {
        "questions": questions,
        "ours_questions_per_s": questions / ours,
        "jpeg_writer_questions_per_s": count / theirs,
        "speedup": (questions / ours) / (count / theirs),
        "ours_bytes": size / questions,
        "jpeg_bytes": their_size / count,
        "ours_bytes_on_disk": disk / questions,
        "jpeg_bytes_on_disk": their_disk / count,
        "share_on_disk": (disk / questions) / (their_disk / count),
    }


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    found = {
        "machine": {"processor": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()},
        "step": training_step(2 if quick else 10, 2 if quick else 5),
        "preparation": preparation(60 if quick else 400),
        "bytes_per_task": task_bytes(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "butd.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = ["# butd", ""]
    for section, values in found.items():
        lines += [f"## {section}", "", "| what | value |", "|---|---|"]
        lines += [f"| {k} | {v:.4g} |" if isinstance(v, float) else f"| {k} | {v} |" for k, v in values.items()]
        lines.append("")
    (RESULTS / "butd.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
