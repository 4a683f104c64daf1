"""Golden cases of the transformer variants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from butd_cases.counter_stream import unpack
from cl_plugin_butd.network.hub import HubVit
from cl_plugin_butd.network.transformers import (
    TaskSelectEncoder,
    TaskSelectEncoderDecoder,
    TaskSelectTwoStream,
    VitShape,
)
from cl_plugin_butd.weights.start import lay_over, transformer

Case = dict[str, Any]
Arrays = dict[str, np.ndarray]


def shape(config: dict[str, Any]) -> VitShape:
    return VitShape(hidden=config["hidden"], ffn=config["ffn"], layers=config["layers"], heads=config["heads"])


def sizes(case: Case, arrays: Arrays) -> dict[str, int]:
    config = case["config"]
    return {
        "image": config["image"],
        "patch": config["patch"],
        "n_tasks": arrays["task"].shape[1],
        "n_arguments": arrays["argument"].shape[1],
        "n_classes": config.get("classes", arrays["out"].shape[1]),
    }


def load(net: torch.nn.Module, case: Case, arrays: Arrays) -> None:
    named = {name: torch.from_numpy(value.copy()) for name, value in unpack(case, arrays, "w0").items()}
    lay_over(net, transformer(named, net), case["case"])


def check(net: torch.nn.Module, case: Case, arrays: Arrays) -> None:
    load(net, case, arrays)
    net.eval()
    with torch.no_grad():
        out = net(*(torch.from_numpy(arrays[name]) for name in ("image", "task", "argument")))
    np.testing.assert_allclose(out, arrays["out"], rtol=1e-4, atol=1e-4)


def check_encoder(case: Case, arrays: Arrays) -> None:
    check(TaskSelectEncoder(shape(case["config"]), **sizes(case, arrays)), case, arrays)


def check_encdec(case: Case, arrays: Arrays) -> None:
    config = case["config"]
    check(
        TaskSelectEncoderDecoder(
            shape(config["enc"]), shape(config["dec"]), deepest_first=config["use_butd"], **sizes(case, arrays)
        ),
        case,
        arrays,
    )


def check_two_stream(case: Case, arrays: Arrays) -> None:
    config = case["config"]
    check(
        TaskSelectTwoStream(
            shape(config), mix=config["mix"], self_attention=config["self_attention"], **sizes(case, arrays)
        ),
        case,
        arrays,
    )


def check_guided(case: Case, arrays: Arrays) -> None:
    config = case["config"]
    assert (config["ntasks"], config["characters"]) == (arrays["task"].shape[1], arrays["argument"].shape[1])
    net = HubVit(
        hidden=config["hidden"],
        layers=config["layers"],
        heads=config["heads"],
        ffn=config["ffn"],
        image=config["image"],
        patch=config["patch"],
        qkv_bias=config["qkv_bias"],
        n_classes=arrays["out"].shape[1],
        n_outputs=arrays["out"].shape[2],
        guided=(arrays["task"].shape[1], arrays["argument"].shape[1]),
    )
    load(net, case, arrays)
    net.eval()
    with torch.no_grad():
        out = net(*(torch.from_numpy(arrays[name]) for name in ("image", "task", "argument")))
    np.testing.assert_allclose(out, arrays["out"], rtol=1e-4, atol=1e-4)


TRANSFORMERS = {
    "vit_guided": check_guided,
    "vit_butd": check_two_stream,
    "vit_encoder": check_encoder,
    "vit_encdec": check_encdec,
}
