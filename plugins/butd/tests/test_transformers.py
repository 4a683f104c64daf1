"""Transformers of other libraries build and answer; skipped where the library is not installed."""

from __future__ import annotations

import pytest
import torch

from cl_plugin_butd import settings
from cl_plugin_butd.method.vit import network
from cl_plugin_butd.network.hub import padded

KINDS = {"guided": "transformers", "vanilla": "transformers", "right-of-all": "transformers",
         "multi-label": "transformers", "cct": "vit_pytorch", "pit": "timm", "encoder": "torch",
         "encoder-decoder": "torch", "two-stream": "torch"}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_answers(kind: str) -> None:
    pytest.importorskip(KINDS[kind])
    image = 224 if kind == "pit" else 32
    net = network(
        settings.Vit(
            kind=kind, hidden=24, ffn=32, layers=2, heads=2, patch=8, image=image, decoder_hidden=16, decoder_layers=2
        ),
        n_tasks=2,
        n_arguments=5,
        n_classes=6,
    )
    out = net(torch.randn(2, 3, image, image), torch.eye(2), torch.eye(5)[:2])
    expected = {"right-of-all": (2, 6, 5), "multi-label": (2, 2, 5), "guided": (2, 6, 1), "vanilla": (2, 6, 1)}
    assert tuple(out.shape) == expected.get(kind, (2, 6))


def test_pretrained_weights_are_padded_with_zeros() -> None:
    net = torch.nn.Linear(4, 3)
    fitted = padded({"weight": torch.ones(2, 6), "bias": torch.ones(5)}, net)
    assert fitted["weight"].tolist() == [[1.0] * 4, [1.0] * 4, [0.0] * 4]
    assert fitted["bias"].tolist() == [1.0, 1.0, 1.0]
