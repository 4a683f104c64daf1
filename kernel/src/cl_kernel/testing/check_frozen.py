"""The frozen promise: what lies below the cut of a network is bit-equal after any learner, norms included."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cl_kernel.contract.errors import ClkError
from cl_kernel.library.datasets.examples import write_images
from cl_kernel.registry import Offer
from cl_kernel.running.plan import Plan, check_installed, make_request
from cl_kernel.running.session import run_plan
from cl_kernel.testing.short_runs import short_plan
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, check

CUT = "above"
NETWORK = f'''"""A network with a norm on either side of its cut; each that was made is kept, and its tensors."""

from collections import OrderedDict

from torch import nn

MADE = []


def block(n_in):
    return nn.Sequential(nn.Conv2d(n_in, 32, 3, 2 if n_in == 3 else 1, 1), nn.BatchNorm2d(32), nn.ReLU())


def make(n_classes):
    network = nn.Sequential(
        OrderedDict(
            below=block(3),
            {CUT}=block(32),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(32, n_classes),
        )
    )
    MADE.append((network, {{k: v.clone() for k, v in network.state_dict().items()}}))
    return network
'''


@check
def nothing_below_the_cut_changes(subject: Subject) -> str:
    """What lies below the cut of a network is bit-equal after every learner, norms included."""
    learners = [o for o in subject.some("learner") if o.record.framework == "torch" and "model" in o.record.accepts]
    if not learners:
        raise NotApplicable("offers no torch learner with a model")
    folder = subject.folder / "frozen"
    folder.mkdir(exist_ok=True)
    file = folder / f"cut_{subject.plugin}.py"
    file.write_text(NETWORK)
    looked, others = [], []
    for offer in learners:
        planned = next(_plans(subject, offer, file), None)
        refused = "another task" if planned is None else _look(subject, offer, planned, file)
        if refused:
            others.append(f"{offer.record.name} ({refused})")
        else:
            looked.append(offer.record.name)
    if not looked:
        raise NotApplicable(f"has no learner that takes pictures and any cut network: {', '.join(others)}")
    return f"{len(looked)} learners" + (f"; not {', '.join(others)}" if others else "")


def _plans(subject: Subject, offer: Offer, file: Path) -> Iterator[Plan]:
    """Short runs of the learner above a cut network of the file, with its memory where it has or may have one."""
    data = file.parent / "data"
    if not data.is_dir():
        data.mkdir()
        write_images(data)
    optional = "memory" in offer.record.accepts and not offer.record.defaults.get("replay")
    request = make_request(
        dataset=f"clk:arrays:{data / 'data.npz'}",
        learner=offer.name,
        model=f"clk:module:{file}:make",
        replay="reservoir+raw" if optional else "",
        metrics=["accuracy"],
    )
    try:
        planned = short_plan(subject, request, {"dataset.n_stages": 2, "model.cut": CUT, "run.device": "cpu"})
        check_installed(planned)
    except ClkError:
        return
    yield planned


def _look(subject: Subject, offer: Offer, planned: Plan, file: Path) -> str:
    """Run the learner and compare; why not, for a network that it refuses."""
    import torch

    folder = subject.folder / f"frozen-{offer.record.name}"
    sys.modules.pop(f"_clk_{file.stem}", None)
    try:
        with subject.cache_named("frozen"):
            run_plan(subject.registry, planned, folder, comparisons=False)
    except ClkError as error:
        return error.what
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    network, before = sys.modules[f"_clk_{file.stem}"].MADE[-1]
    after: Mapping[str, Any] = network.state_dict()
    changed = [k for k, v in before.items() if k.startswith("below.") and not torch.equal(v, after[k])]
    if changed:
        raise Failed(f"{offer.name} changes what lies below the cut: {', '.join(changed[:3])}")
    return ""
