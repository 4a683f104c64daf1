"""Golden cases of kind ``counter_stream``: forward of every stream, losses, gradients, optimiser steps."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from cl_plugin_butd.evaluate.metrics import Occurrence
from cl_plugin_butd.method.losses import instruction_loss, task_accuracy
from cl_plugin_butd.network.counter_stream import CounterStream
from cl_plugin_butd.network.streams import Topology
from cl_plugin_butd.weights.names import from_first_generation
from cl_plugin_butd.weights.start import lay_over

NORMS = {
    "BatchNorm": "batch",
    "BatchNormNoStats": "batch-no-stats",
    "InstanceNorm": "instance",
    "GroupNorm": "group",
    "NoNorm": "none",
    "none": "none",
}
VARIANTS = {
    "BUTDModelShared": "shared",
    "BUTDModelSeparate": "separate",
    "BUTDModelDuplicate": "duplicate",
    "BUModelSimple": "shared",
}


def unpack(case: dict[str, Any], arrays: dict[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
    flat = arrays[group]
    return {
        name: flat[offset : offset + int(np.prod(shape, dtype=int))].reshape(shape)
        for name, shape, offset in case["packed_index"][group]
    }


def topology(config: dict[str, Any], *, reorder: bool = False) -> Topology:
    blocks = config["ns"]
    if config["flag_at"] == "BU1_SIMPLE":
        blocks = [n // 3 for n in blocks]
    norm, groups = re.fullmatch(r"(\w+?)(?:\((\d+)\))?", config["norm"]).groups()
    return Topology(
        filters=config["nfilters"],
        strides=config["strides"],
        blocks=blocks,
        in_shape=config["inshape"],
        instruction=config["flag_size"],
        n_occurrence=config["n_occurrence"],
        outputs=config["nclasses"],
        placement=config["flag_at"],
        variant=VARIANTS[config["variant"]],
        bu_to_td=config["lateral_bu_to_td"],
        td_to_bu=config["lateral_td_to_bu"],
        td_image=config["td_image_loss"],
        final_td_conv=config["final_td_conv"],
        head_layers=config["head_layers"],
        orig_relus=config["orig_relus"],
        norm=NORMS[norm],
        norm_groups=int(groups or config.get("norm_groups", 0)),
        norm_eps=1e-3 if config.get("orig_bn_eps") else config.get("bn_eps", 1e-5),
        reorder=reorder,
    )


def our_name(case: dict[str, Any], name: str, shape: tuple[int, ...]) -> str:
    config = case["config"]
    return from_first_generation(
        name, shape, separate=VARIANTS[config["variant"]] == "separate", head_layers=config["head_layers"]
    )


def our_names(case: dict[str, Any], group: str) -> dict[str, str]:
    return {name: our_name(case, name, tuple(shape)) for name, shape, _ in case["packed_index"][group]}


def flat_laterals(run: dict[str, Any]) -> dict[str, torch.Tensor]:
    found = {}
    for stream in ("bu1", "td", "bu2"):
        levels = run.get(f"{stream}_lat")
        for level, value in enumerate(levels or []):
            if isinstance(value, torch.Tensor):
                found[f"{stream}_lat.{level}"] = value
            else:
                for j, taps in enumerate(value):
                    for i, tap in enumerate(taps):
                        found[f"{stream}_lat.{level}.{j}.{i}"] = tap
    return found


def occurrences(logits: np.ndarray, existence: np.ndarray) -> list[float]:
    """The metric of each example alone."""
    metric = Occurrence()
    return [
        metric.compute(metric.update(metric.start(), row[None], there[None]))["occurrence"]
        for row, there in zip(logits, existence, strict=True)
    ]


def check_counter_stream(case: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    config = case["config"]
    net = CounterStream(topology(config))
    names = our_names(case, "w0")
    shapes = {name: tuple(shape) for name, shape, _ in case["packed_index"]["w0"]}
    for alias, name in case["aliases"].items():
        assert our_name(case, alias, shapes[name]) == names[name], f"{alias} is not {name}"
    weights = {names[n]: torch.from_numpy(v.copy()) for n, v in unpack(case, arrays, "w0").items()}
    lay_over(net, weights, case["case"])
    assert sum(p.numel() for p in net.parameters()) == case["trainable_params"]
    inputs = {n[3:]: torch.from_numpy(v.copy()) for n, v in arrays.items() if n.startswith("in.")}
    start = {n: v.clone() for n, v in net.state_dict().items()}

    for mode in ("eval", "train"):
        net.load_state_dict(start)
        net.train(mode == "train")
        with torch.no_grad():
            out = net(inputs["image"], inputs["flag"], trace=True)
        seen = {**out.trace, "occurrence": out.occurrence, "task": out.task, "td_image": out.td_image}
        for name, expected in arrays.items():
            if name.startswith(f"{mode}."):
                actual = seen[name.split(".", 1)[1]]
                if name.endswith("td_embed"):
                    actual = actual.reshape(expected.shape)
                np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4, err_msg=name)
        if f"{mode}_laterals" in arrays:
            mine = flat_laterals(out.trace)
            for name, expected in unpack(case, arrays, f"{mode}_laterals").items():
                np.testing.assert_allclose(mine[name], expected, rtol=1e-4, atol=1e-4, err_msg=f"{mode} {name}")

    quick = CounterStream(topology(config, reorder=True)).double().train()
    exact = CounterStream(topology(config)).double().train()
    for other in (quick, exact):
        other.load_state_dict(start)
    with torch.no_grad():
        a, b = (other(inputs["image"].double(), inputs["flag"].double()).task for other in (quick, exact))
    np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7, err_msg="the cheaper order of operations")

    net.load_state_dict(start)
    check_steps(case, arrays, net, inputs, names)


def check_steps(
    case: dict[str, Any],
    arrays: dict[str, np.ndarray],
    net: CounterStream,
    inputs: dict[str, torch.Tensor],
    names: dict[str, str],
) -> None:
    config = case["config"]
    momentum, decay = config["momentum"], config["weight_decay"]
    if config["optimizer"] == "SGD":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            net.parameters(), config["lr"], momentum=momentum or 0.0, weight_decay=decay
        )
    else:
        assert config["optimizer"] == "Adam", config["optimizer"]
        betas = (0.9 if momentum is None else momentum, 0.999)
        optimizer = torch.optim.Adam(net.parameters(), config["lr"], betas, weight_decay=decay)
    net.train()
    parameters = dict(net.named_parameters())
    grad_small: dict[str, np.ndarray] = {}
    for step in range(config["steps"]):
        out = net(inputs["image"], inputs["flag"])
        terms = instruction_loss(
            out,
            inputs["label_task"],
            inputs["label_existence"],
            weight=inputs["loss_weight"] if config["weighted_loss"] else None,
            drawing=inputs.get("seg"),
        )
        if step == 0:
            acc = task_accuracy(
                out.task, inputs["label_task"], inputs["loss_weight"] if config["weighted_loss"] else None
            )
            np.testing.assert_allclose(acc, arrays["acc0.task_per_example"], rtol=1e-5)
            np.testing.assert_allclose(
                occurrences(out.occurrence.detach().numpy(), arrays["in.label_existence"]),
                arrays["acc0.occurrence_per_example"],
                rtol=1e-5,
            )
        for name, value in (
            ("occurrence", terms.occurrence),
            ("task", terms.task),
            ("td_mse", terms.td_image),
            ("total", terms.total),
        ):
            if f"loss{step}.{name}" in arrays:
                np.testing.assert_allclose(value.item(), arrays[f"loss{step}.{name}"], rtol=1e-4, err_msg=name)
        optimizer.zero_grad()
        terms.total.backward()
        if step == 0:
            silent = {n for n, p in parameters.items() if p.grad is None}
            assert silent == {names[n] for n in case["params_without_gradient_in_step0"]}
            ours = our_names(case, "grad0")
            for name, expected in unpack(case, arrays, "grad0").items():
                np.testing.assert_allclose(parameters[ours[name]].grad, expected, rtol=2e-3, atol=1e-4, err_msg=name)
            grad_small = {n: np.abs(p.grad.numpy()) < 1e-6 for n, p in parameters.items() if p.grad is not None}
        optimizer.step()
    last = f"w{config['steps']}"
    if last not in arrays:
        return
    state = net.state_dict()
    changed, after, ours = unpack(case, arrays, last), unpack(case, arrays, "w0"), our_names(case, "w0")
    for name, expected in {**after, **changed}.items():
        tolerance = np.full(expected.shape, 2e-4)
        if config["optimizer"] == "Adam" and ours[name] in grad_small:
            tolerance = np.where(grad_small[ours[name]], 2e-3, tolerance)
        np.testing.assert_array_less(np.abs(state[ours[name]].numpy() - expected), tolerance + 1e-12, err_msg=name)
