"""Classifiers: one layer or two on features, or a whole network with a new head. d features, C classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from cl_kernel import Mismatch
from cl_plugin_clear.network.backbones import backbone
from cl_plugin_clear.weights.checkpoints import load_backbone

if TYPE_CHECKING:
    from cl_kernel import Field, Resources
    from cl_plugin_clear.settings import Cnn, Linear, Mlp


def build_linear(settings: Linear, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> nn.Module:
    """Linear(d, C) on feature vectors."""
    return nn.Linear(_width(fields), n_outputs)


def build_mlp(settings: Mlp, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> nn.Module:
    """Linear(d, hidden), ReLU, Linear(hidden, C) on feature vectors."""
    return nn.Sequential(nn.Linear(_width(fields), settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, n_outputs))


def build_cnn(settings: Cnn, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> nn.Module:
    """A backbone with a new head, all weights trained, from scratch or from a checkpoint."""
    network, width = backbone(settings.arch)
    if settings.weights:
        load_backbone(network, settings.weights)
    network.fc = nn.Linear(width, n_outputs)
    return network


def _width(fields: Mapping[str, Field]) -> int:
    vectors = [spec for spec in fields.values() if spec.kind == "vector"]
    if not vectors or vectors[0].shape[0] is None:
        raise Mismatch(
            "this head reads feature vectors, the data set gives none",
            where="--model",
            fix="--model clear:cnn, or a data set of features",
        )
    return int(vectors[0].shape[0])
