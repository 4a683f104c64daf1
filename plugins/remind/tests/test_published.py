"""Published trees, from the list of data sets to a finished run and back; broken ones are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from remind_trees import clevr, core50, imagenet, own, tdiuc, weights

from cl_kernel import BadInput, Interrupted, MissingAsset, Resources, discover, run
from cl_kernel.cli.main import main
from cl_plugin_remind.data import features, published
from cl_plugin_remind.settings import Questions

SHORT = {"run.plots": False, "run.device": "cpu"}
CLASSES = {**SHORT, "learner.base_epochs": 1, "learner.replay_samples": 4, "metrics": "accuracy"}
WORDS = {**SHORT, "learner.epochs": 1, "learner.replay_samples": 4, "learner.batch_size": 16}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))


FEW = {"dataset.base_classes": 2, "dataset.increment": 2, "learner.base_batch": 8}
TREES: dict[str, tuple[Callable[[Path], None], str, str, dict[str, Any]]] = {
    "core50": (core50, "remind:core50", "core50-class-instance", CLASSES),
    "imagenet": (imagenet, "remind:imagenet", "imagenet-cls-iid", {**CLASSES, **FEW}),
    "own": (own, "remind:imagenet", "imagenet-custom-order", {**CLASSES, **FEW}),
    "clevr": (clevr, "remind:clevr", "clevr-qtype", WORDS),
    "tdiuc": (tdiuc, "remind:tdiuc", "tdiuc-iid", WORDS),
}


def status(capsys: pytest.CaptureFixture[str], root: Path, name: str) -> str:
    capsys.readouterr()
    assert main(["data", "list", "--data-root", str(root), "--json"]) == 0
    return next(row["status"] for row in json.loads(capsys.readouterr().out) if row["name"] == name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TREES)
def test_a_published_tree_runs_its_paper_profile_and_resumes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, dataset, test, short = TREES[name]
    root = tmp_path / "data"
    make(root)
    if name in features.DEFAULTS:
        network = features.DEFAULTS[name][0]
        weights(root, network, features.WEIGHTS[network])
        assert status(capsys, root, dataset) == "missing"
        order = test.rsplit("-", 1)[1]
        for _ in range(2):  # the second time it is there already
            assert main(["data", "prepare", f"{dataset}:{order}", "--data-root", str(root)]) == 0
    assert name == "own" or status(capsys, root, dataset) == "found"
    more = {"dataset.class_order": str(root / "order.txt")} if name == "own" else {}
    asked = {"plugin": "remind", "test": test, "profile": "paper", "data_roots": [str(root)], "comparisons": False}
    whole = run(**asked, output=tmp_path / "whole", settings={**short, **more})
    with pytest.raises(Interrupted):
        run(**asked, output=tmp_path / "stopped", settings={**short, **more, "run.stop_at_step": 2})
    assert main(["resume", str(tmp_path / "stopped")]) == 0
    again = json.loads((tmp_path / "stopped" / "metrics.json").read_text())
    assert again["finished"] and whole.results["finished"]
    for digest in ("digest", "state_digest"):
        assert again[digest] == whole.results[digest]


# ---- broken trees -----------------------------------------------------------------------------------


def resources(root: Path) -> Resources:
    return Resources(roots=(root,), locator=discover(only=["remind"]).locate)


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first block of ResNet-18 instead of ResNet-101: what is tested here is what happens around it."""
    monkeypatch.setitem(features.DEFAULTS, "clevr", ("resnet18", 1, "all_clevr", "map_clevr"))
    monkeypatch.setitem(features.WEIGHTS, "resnet18", "resnet18-f37072fd.pth")


def test_what_is_missing_is_named_with_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingAsset, match=r"dl\.fbaipublicfiles\.com"):
        published.clevr(Questions(), resources(tmp_path))
    (tmp_path / "CLEVR_v1.0.zip").write_bytes(b"")
    with pytest.raises(MissingAsset, match=r"unpack .*CLEVR_v1\.0\.zip"):
        published.clevr(Questions(), resources(tmp_path))
    fast(monkeypatch)
    clevr(tmp_path)
    with pytest.raises(MissingAsset, match=r"download\.pytorch\.org/models/resnet18-f37072fd\.pth"):
        published.clevr(Questions(), resources(tmp_path))


def test_a_broken_picture_is_named_and_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fast(monkeypatch)
    clevr(tmp_path)
    weights(tmp_path, "resnet18", "resnet18-f37072fd.pth")
    place = tmp_path / "CLEVR_v1.0" / "images" / "val" / "CLEVR_val_000003.png"
    whole = place.read_bytes()
    place.unlink()
    with pytest.raises(BadInput, match="images that questions ask about are missing, the first has the number 23"):
        published.clevr(Questions(), resources(tmp_path))
    place.write_bytes(whole[:2000])
    monkeypatch.setattr(features, "_FLUSHED", 1)
    few = Questions(codebooks=4, codebook_size=16)
    with pytest.raises(BadInput, match=r"(?s)the image cannot be read.*CLEVR_val_000003\.png"):
        published.clevr(few, resources(tmp_path))
    place.write_bytes(whole)
    caplog.set_level("INFO")
    folder = published.clevr(few, resources(tmp_path))
    assert "features of 24 of 24 images" in caplog.text and (folder / "codes_qtype.h5").is_file()
    caplog.clear()
    published.clevr(few, resources(tmp_path))
    assert [record.message for record in caplog.records if record.name == published.__name__] == [
        f"{step}: there already" for step in ("questions", "features", "codes qtype")
    ]


def test_codes_of_other_settings_are_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)
    clevr(tmp_path)
    weights(tmp_path, "resnet18", "resnet18-f37072fd.pth")
    published.clevr(Questions(codebooks=4, codebook_size=16), resources(tmp_path))
    asked = ["run", "--plugin", "remind", "--test", "clevr-qtype", "--profile", "paper", "--data-root", str(tmp_path)]
    assert main([*asked, "--output", str(tmp_path / "run")]) == 2
