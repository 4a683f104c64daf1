"""Golden case ``cl_zero_forgetting``: a stream of directions with the continual network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from butd_cases.counter_stream import unpack
from butd_cases.reading import said
from cl_plugin_butd.network.continual import ContinualCounterStream, ModulationSpec, TaskSpec
from cl_plugin_butd.network.streams import Topology
from cl_plugin_butd.weights.names import from_continual
from cl_plugin_butd.weights.start import continual, lay_over, numbered


def build(config: Mapping[str, Any]) -> ContinualCounterStream:
    """The published continual network: stem of 7, other filters of 3, plain or separable."""
    assert re.findall(r"\d+", config["convs"]) == ["7", "3"], config["convs"]
    topology = Topology(
        filters=config["nfilters"],
        strides=config["strides"],
        blocks=[0, *config["blocks"]],
        in_shape=config["inshape"],
        n_occurrence=config["ncls"],
        separable=not config["convs"].startswith("plain"),
        reorder=False,
    )
    return ContinualCounterStream(
        topology,
        [TaskSpec(n_classes=config["ncls"] + 1) for _ in config["directions"]],
        [config["ncls"]],
        ModulationSpec(kind="weight-mul", factor=config["modulation_factor"]),
    )


def check_continual(case: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    config = case["config"]
    parts = {part.strip() for part in config["loss"].split("+")}
    assert parts <= {"BCE occurrence", "CE task"}, config["loss"]
    rate = config.get("lr", said(case, r"lr ([0-9.e-]+)") or 1e-2)
    decay = config.get("weight_decay", said(case, r"wd ([0-9.e-]+)") or 0.0)
    heads = numbered(config["directions"], [0] * len(config["directions"]))
    assert [index for _, index in heads] == config["index_in_weight_names"]
    net = build(config)
    for alias, name in case["aliases"].items():
        assert from_continual(alias, heads) == from_continual(name, heads), f"{alias} is not {name}"
    # the published file also holds tables nobody reads
    wanted = {
        name: from_continual(name, heads)
        for name, shape, _ in case["packed_index"]["w0"]
        if not (name.endswith(("running_mean", "running_var")) and len(shape) == 2)
    }
    published_weights = {n: torch.from_numpy(v.copy()) for n, v in unpack(case, arrays, "w0").items()}
    lay_over(net, continual(published_weights, heads), case["case"])

    directions = max(shape[0] for name, shape, _ in case["packed_index"]["w0"] if name not in wanted)

    def logits(prefix: str, task: int) -> dict[str, Any]:
        image = torch.from_numpy(arrays[f"{prefix}.image"])
        return net.answer(image, torch.from_numpy(arrays[f"{prefix}.char"]), task)

    kept: dict[int, torch.Tensor] = {}
    for task in range(len(config["directions"])):
        owned = {id(p) for p in net.owned(task)}
        for name, p in net.named_parameters():
            others = name.startswith(("heads.", "modulations.")) and id(p) not in owned
            p.requires_grad_((task == 0 and not others) or id(p) in owned)
        learn = [p for p in net.parameters() if p.requires_grad]
        owning = sum(p.numel() for p in net.owned(task))
        # the published first phase lists the modulations and heads of every direction the tables have room for
        idle = (directions - 1) * owning if task == 0 else 0
        assert sum(p.numel() for p in learn) + idle == arrays[f"phase{task}.n_trainable"]
        optimizer = torch.optim.Adam(learn, rate, weight_decay=decay)
        net.train()
        for step in range(sum(name.startswith(f"phase{task}.loss") for name in arrays)):
            run = logits(f"train{task}", task)
            terms = {
                "BCE occurrence": F.binary_cross_entropy_with_logits(
                    run["occurrence"], torch.from_numpy(arrays[f"train{task}.label_existence"])
                ),
                "CE task": F.cross_entropy(run["task"], torch.from_numpy(arrays[f"train{task}.label_task"])),
            }
            loss = torch.stack([terms[part] for part in parts]).sum()
            np.testing.assert_allclose(loss.item(), arrays[f"phase{task}.loss{step}"], rtol=1e-4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.store_statistics(task)
        for earlier, before in kept.items():
            assert torch.equal(evaluate(net, logits, earlier)["task"], before), "an earlier task's logits moved"

        state = net.state_dict()
        published = {wanted[n]: v for n, v in unpack(case, arrays, f"w_after_phase{task}").items() if n in wanted}
        for name, expected in published.items():
            # a gate in front of batch norm has no gradient but rounding, which Adam turns into steps of its own
            tolerance = 2e-3 if ".gate" in name or "running" in name else 3e-4
            np.testing.assert_allclose(state[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)
        after = {name: torch.from_numpy(v.copy()) for name, v in published.items()}
        lay_over(net, after, case["case"])
        net.store_statistics(task)
        for earlier in range(task + 1):
            run = evaluate(net, logits, earlier)
            for ours, theirs in (("task", "task_logits"), ("occurrence", "occurrence"), ("bu2", "bu2")):
                expected = arrays[f"phase{task}.eval_task{earlier}.{theirs}"]
                np.testing.assert_allclose(
                    run[ours].reshape(expected.shape), expected, rtol=case["tolerance"], atol=case["tolerance"]
                )
            if earlier < task:
                assert torch.equal(run["task"], kept[earlier]), "an earlier task's logits moved"
            kept[earlier] = run["task"]


def evaluate(net: ContinualCounterStream, logits: Callable[[str, int], dict[str, Any]], task: int) -> dict[str, Any]:
    net.eval()
    with torch.no_grad():
        return logits("eval", task)
