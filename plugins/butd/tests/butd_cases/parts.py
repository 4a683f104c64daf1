"""Golden cases of single parts: modulations, embeddings at the top, batch norm per task, losses, schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from butd_cases.reading import said
from cl_plugin_butd.method.losses import chosen_head_loss
from cl_plugin_butd.method.regularisers import (
    OnlineEwc,
    OnlinePathIntegral,
    OnlineWalk,
    distillation,
    mas_objective,
    quadratic,
)
from cl_plugin_butd.method.schedule import cyclic_rate, is_better, mean_image, warmup_factors
from cl_plugin_butd.network.blocks import Norm
from cl_plugin_butd.network.counter_stream import TaskArgumentTop
from cl_plugin_butd.network.modulation import (
    ActivationModulation,
    WeightModulation,
    binary_mask,
    expand,
    interpolate,
    modulation_size,
)
from cl_plugin_butd.weights.names import from_split_top

Case = Mapping[str, Any]
Arrays = dict[str, np.ndarray]


def close(actual: Any, expected: np.ndarray, case: Case, name: str = "") -> None:
    tolerance = case["tolerance"] if isinstance(case["tolerance"], float | int) else 1e-5
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, err_msg=name)


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(value).copy()) for name, value in arrays.items()}


def check_mod_act(case: Case, arrays: Arrays) -> None:
    t = tensors(arrays)
    _, channels, height, width = t["x"].shape
    for task in range(sum(name.startswith("channel.") for name in arrays) // 2):
        layer = ActivationModulation(channels, height, width)
        layer.load_state_dict(
            {
                f"{part}.{kind}": t[f"{part}.{task}.{kind}"]
                for part in ("channel", "pixel")
                for kind in ("weight", "bias")
            }
        )
        close(layer.modulate_pixels(t["x"]), arrays[f"t{task}.pixel"], case)
        close(layer(t["x"]), arrays[f"t{task}.pixel_then_channel"], case)


def geometry(case: Case, x: torch.Tensor, weight: torch.Tensor, out: np.ndarray) -> dict[str, int]:
    """Stride and padding as the case says, or the first pair that leads to the sizes given."""
    stride, padding = (
        case.get(name, said(case, rf"{word} (\d+)")) for name, word in (("stride", "stride"), ("padding", "pad"))
    )
    kernel = weight.shape[-1]
    for s in range(1, 5) if stride is None else [int(stride)]:
        for p in (kernel // 2, *range(kernel)) if padding is None else [int(padding)]:
            if all((n + 2 * p - kernel) // s + 1 == m for n, m in zip(x.shape[2:], out.shape[2:], strict=True)):
                return {"stride": s, "padding": p}
    raise AssertionError(f"no stride and padding lead from {tuple(x.shape)} to {out.shape}")


def modulated(case: Case, kind: str, weight: torch.Tensor, m: torch.Tensor) -> WeightModulation:
    """Our modulation of a filter with the case's factor, holding the case's numbers."""
    layer = WeightModulation(weight.shape, kind, case["factor"])
    assert layer.m is not None
    assert layer.m.shape == m.shape, (layer.m.shape, m.shape)
    layer.load_state_dict({"m": m})
    return layer


def check_weight_mul(case: Case, arrays: Arrays) -> None:
    t = tensors(arrays)
    for i in range(sum(name.startswith("M") for name in arrays)):
        y = arrays[f"y{i}"]
        close(expand(t[f"M{i}"], t["W"].shape), arrays[f"E{i}"], case)
        weight = modulated(case, "weight-mul", t["W"], t[f"M{i}"])(t["W"])
        close(F.conv2d(t["x"], weight, **geometry(case, t["x"], t["W"], y)), y, case)


def check_weight_1m(case: Case, arrays: Arrays) -> None:
    t = tensors(arrays)
    for i in range(sum(name.startswith("M") for name in arrays)):
        layer = modulated(case, "weight-1m", t["W"], t[f"M{i}"])
        y = F.conv2d(t["x"], layer(t["W"]), **geometry(case, t["x"], t["W"], arrays[f"y{i}"]))
        close(y, arrays[f"y{i}"], case)
        y.square().mean().backward()
        close(layer.m.grad, arrays[f"gradM{i}_of_mean_y2"], case)


def check_size_rule(case: Case, arrays: Arrays) -> None:
    for f0, f1, out, inn, k1, k2, rank, *size in arrays["table"].tolist():
        assert modulation_size((out, inn, k1, k2), (f0, f1)) == (tuple(size) if rank else None)


def check_interpolation(case: Case, arrays: Arrays) -> None:
    for i, (small, shape, mode) in enumerate(case["cases"]):
        assert list(arrays[f"M{i}"].shape) == small
        close(interpolate(torch.from_numpy(arrays[f"M{i}"]), shape, mode), arrays[f"E{i}"], case)


def check_mask(case: Case, arrays: Arrays) -> None:
    t = tensors(arrays)
    real = t["R"].requires_grad_()
    mask = binary_mask(real, case["tau"])
    close(mask, arrays["mask"], case)
    y = F.conv2d(t["x"], t["W"] * mask, **geometry(case, t["x"], t["W"], arrays["y"]))
    close(y, arrays["y"], {"tolerance": 1e-5})
    y.square().mean().backward()
    close(real.grad, arrays["gradR_of_mean_y2"], case)


def check_bn_per_task(case: Case, arrays: Arrays) -> None:
    t = tensors(arrays)
    n_tasks = len({name.split(".")[0] for name in arrays if name.startswith("task")})
    norm = Norm(len(t["gamma"]), n_tasks=n_tasks)
    with torch.no_grad():
        norm.weight.copy_(t["gamma"])
        norm.bias.copy_(t["beta"])
    for task in range(n_tasks):
        norm.train()
        for step in range(sum(name.startswith(f"task{task}.step") for name in arrays) // 2):
            close(norm(t[f"task{task}.step{step}.x"]), arrays[f"task{task}.step{step}.y"], case)
        norm.store(task)
        close(norm.task_mean[task], arrays[f"task{task}.mean"], case)
        close(norm.task_var[task], arrays[f"task{task}.var"], case)
    norm.eval()
    for name in arrays:
        if name.startswith("eval_task"):
            close(norm(t["x_eval"], int(name.removeprefix("eval_task"))), arrays[name], case)
        elif name.startswith("eval_mixed_"):
            rows = [int(part.removeprefix("task")) for part in name.removeprefix("eval_mixed_").split("_then_")]
            close(norm(t["x_eval"], torch.tensor(rows)), arrays[name], case, name)


def check_split_top(case: Case, arrays: Arrays, *, per_task: bool) -> None:
    t = tensors(arrays)
    weights = {name[2:]: value for name, value in t.items() if name.startswith("w.")}
    n_tasks = weights["h_top_td.1.running_mean"].shape[0]
    top = TaskArgumentTop(t["bu"].shape[1], n_tasks, t["flag"].shape[1] - n_tasks, per_task=per_task)
    top.load_state_dict(
        {
            **top.state_dict(),
            **{
                from_split_top(name): value
                for name, value in weights.items()
                if not (name.endswith(("running_mean", "running_var")) and value.dim() == 2)  # tables nobody reads
            },
        }
    )
    bu = t["bu"].flatten(1)
    top.train()
    out, embed = top(bu, t["flag"])
    close(out[..., None, None], arrays["train.out"], case)
    close(embed.reshape(arrays["train.embed"].shape), arrays["train.embed"], case)
    top.eval()
    close(top(bu, t["flag"])[0][..., None, None], arrays["eval_after_train.out"], case)


def check_lwf(case: Case, arrays: Arrays) -> None:
    t = tensors(arrays)
    heat = case.get("temperature", said(case, r"T=([0-9.]+)") or 2.0)
    plain = distillation(t["new"], t["old"], temperature=heat)
    close(plain, arrays["loss_unweighted"], case)
    weighted = distillation(t["new3"], t["old3"], t["presence"], temperature=heat)
    close(weighted, arrays["loss_presence_weighted"], case)
    for name in arrays:
        if name.startswith("convex_mix_lambda"):
            weight, ce = (
                float(x) for x in name.removeprefix("convex_mix_lambda").removesuffix("_on_unweighted").split("_ce")
            )
            close(weight * (weight * plain) + (1 - weight) * ce, arrays[name], case)


def check_quadratic(case: Case, arrays: Arrays) -> None:
    t = tensors(arrays)
    part = {
        side: {name.removeprefix(f"{side}."): value for name, value in t.items() if name.startswith(f"{side}.")}
        for side in ("new", "old", "imp")
    }
    close(quadratic(part["new"], part["old"], part["imp"]), arrays["penalty"], case)
    close(mas_objective(t["logits"]), arrays["mas_objective"], case)


def check_online(case: Case, arrays: Arrays) -> None:
    t = tensors(arrays)
    p = {"weight": t["w0"].requires_grad_(), "bias": t["b0"].requires_grad_()}
    before = {kind: {name: t[f"{kind}_old.{name}"] for name in p} for kind in ("fisher", "score")}
    online = {
        "ewc": OnlineEwc(p, before["fisher"]),
        "pi": OnlinePathIntegral(p, before["score"]),
        "rw": OnlineWalk(
            p, (before["fisher"], before["score"]), period=int(case.get("period", said(case, r"period (\d+)") or 2))
        ),
    }
    optimizer = torch.optim.SGD(p.values(), case.get("lr", said(case, r"lr ([0-9.]+)") or 0.1))
    for step, (x, y) in enumerate(zip(t["X"], t["Y"], strict=True)):
        for name, regulariser in online.items():
            close(regulariser.penalty(), arrays[f"step{step}.{name}_penalty"], case)
        optimizer.zero_grad()
        F.cross_entropy(F.linear(x, p["weight"], p["bias"]), y).backward()
        gradients = {name: value.grad.clone() for name, value in p.items()}
        for regulariser in online.values():
            regulariser.update(gradients)
        optimizer.step()
    fisher, score = online["rw"].importance()
    for name in p:
        close(p[name], arrays[f"final.{name}"], case)
        close(online["ewc"].importance()[name], arrays[f"ewc_fisher.{name}"], case)
        close(online["pi"].importance()[name], arrays[f"pi_score.{name}"], case, "pi")
        close(fisher[name], arrays[f"rw_fisher.{name}"], case)
        close(score[name], arrays[f"rw_score.{name}"], case, "rw")


def check_head_select(case: Case, arrays: Arrays) -> None:
    t = tensors(arrays)
    n_tasks = t["task"].shape[2]
    loss, right = chosen_head_loss(t["task"], t["flag"][:, :n_tasks], t["label_task"])
    close(loss, arrays["ce_per_example"], case)
    assert right.sum().item() == arrays["n_correct"]
    assert torch.equal(t["task"].argmax(1), t["argmax"])


def check_schedules(case: Case, arrays: Arrays) -> None:
    cyclic = case["config"]["cyclic"]
    steps = len(arrays["cyclic_lr"])
    close(
        [cyclic_rate(i, cyclic["base"], cyclic["max"], cyclic["step_up"]) for i in range(steps)],
        arrays["cyclic_lr"],
        case,
    )
    for name in arrays:
        if name.startswith("warmup_"):
            words = name.split("_")
            n_gpus = int(words[1].removesuffix("gpu"))
            scale = next((float(w.removeprefix("scale")) for w in words if w.startswith("scale")), 1.0)
            close(warmup_factors(n_gpus, len(arrays[name]), scale=scale), arrays[name], case, name)
    for (new, old), expected in zip(arrays["best_pairs_new_old"], arrays["best_is_new"], strict=True):
        assert is_better(new, old) == bool(expected), (new, old)
    for name in arrays:
        if name.startswith("mean_image_stop"):
            stop = int(name.removeprefix("mean_image_stop"))
            close(mean_image(arrays["mean_image_batches"], stop), arrays[name], case, name)
    close(mean_image(arrays["mean_image_batches"], None), arrays["mean_image_all"], case)


PARTS = {
    "mod_act": check_mod_act,
    "td_top_task_arg": lambda case, arrays: check_split_top(case, arrays, per_task=False),
    "td_top_sf": lambda case, arrays: check_split_top(case, arrays, per_task=True),
    "wmod_mul": check_weight_mul,
    "wmod_1m": check_weight_1m,
    "mod_size_rule": check_size_rule,
    "mod_interp": check_interpolation,
    "binary_mask": check_mask,
    "bn_per_task": check_bn_per_task,
    "lwf_distill": check_lwf,
    "quadratic": check_quadratic,
    "reg_online": check_online,
    "b_head_select": check_head_select,
    "schedules": check_schedules,
}
