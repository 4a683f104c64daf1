"""Any network as the embedder: pictures stand for prompts, and features know who made them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cl_kernel import BadInput, BadSetting, MissingAsset
from cl_plugin_clear.curation import concepts, explore, features, retrieve
from cl_plugin_clear.curation.buckets import Split

NAME = "torchvision:resnet18@32"


def test_a_network_without_text_retrieves_by_example_pictures(store: Path, tmp_path: Path) -> None:
    network = features.open_model(NAME, weights="none")
    made = features.embed(store, "equal", network, buckets=[1], n_threads=1)
    assert made.n_pictures
    rows = Split.open(store, "equal").rows(1, ["id", "rel_path"]).to_pylist()
    examples = tmp_path / "examples"
    examples.mkdir()
    shutil.copy(store / rows[5]["rel_path"], examples / "one.jpg")
    again = features.open_model(NAME, weights="none")  # opened anew: the same weights
    view = explore.Explorer(store, "equal", again).query(str(examples), 1, 5)
    assert view.hits[0].id == rows[5]["id"]
    assert view.hits[0].score == pytest.approx(1.0, abs=1e-4)
    group = concepts.Concepts(name="G", group=(str(examples),), split="equal", model=NAME, class_size=3, pool=6)
    retrieve.retrieve_group(store, tmp_path / "G", group, again, label_map={str(examples): "mine"}, buckets=[1])
    assert (tmp_path / "G" / "clip_result" / "1.json").exists()
    with pytest.raises(BadInput, match="reads no text"):
        explore.Explorer(store, "equal", again).query("a ring", 1, 5)
    with pytest.raises(MissingAsset):  # pictures of another size are other features
        explore.Explorer(store, "equal", features.open_model("torchvision:resnet18@64", weights="none")).query(
            str(examples), 1, 5
        )


def test_features_of_other_weights_are_refused(store: Path, tmp_path: Path) -> None:
    import torch
    import torchvision

    features.embed(store, "equal", features.open_model(NAME, weights="none"), buckets=[1], n_threads=1)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "other.pt")
    other = features.open_model(NAME, weights=str(tmp_path / "other.pt"))
    with pytest.raises(BadSetting, match="weights"):
        features.embed(store, "equal", other, buckets=[1], n_threads=1)
    with pytest.raises(BadSetting, match="no edge"):
        features.open_model("timm:resnet18@wide")
    with pytest.raises(BadSetting, match="no encoder"):
        features.open_model("nobody:resnet18")
