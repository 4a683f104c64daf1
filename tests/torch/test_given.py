"""Own data and own networks: by a callable's name, and as objects in Python."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import cl_kernel
from cl_kernel import ClkError, Resources
from cl_kernel.cli.main import main
from cl_kernel.contract import events
from cl_kernel.library.datasets.folder_settings import Own
from cl_kernel.library.datasets.own import as_arrays, build_images, build_vectors
from cl_kernel.storage.run_folder import read_json

N, SIDE = 40, 8
QUICK = {"run.device": "cpu", "run.plots": False, "dataset.n_stages": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Four classes of ten grey-level colour pictures, told apart by their brightness."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 10)
    x = rng.integers(0, 40, (N, SIDE, SIDE, 3)) + 60 * y[:, None, None, None]
    return x.astype(np.uint8), y


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, 4))


# ---- forms of data ---------------------------------------------------------------------------------------------


def forms(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    import datasets

    as_pillow = [Image.fromarray(one) for one in x]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=4)})
    tensors = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    return {
        "arrays": (x, y),
        "a mapping": {"x": x, "y": y},
        "tensors": (tensors, torch.from_numpy(y)),
        "a torch data set": TensorDataset(tensors, torch.from_numpy(y)),
        "pairs of Pillow's pictures": list(zip(as_pillow, y.tolist(), strict=True)),
        "datasets": datasets.Dataset.from_dict({"img": as_pillow, "label": y}, features=features),
        "two sides": {"train": (x[::2], y[::2]), "test": (x[1::2], y[1::2])},
    }


@pytest.mark.parametrize(
    "form",
    ["arrays", "a mapping", "tensors", "a torch data set", "pairs of Pillow's pictures", "datasets", "two sides"],
)
def test_every_form_of_a_data_set_becomes_the_same_arrays(form: str, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pictures
    arrays = as_arrays(forms(x, y)[form], where="here")
    order = np.argsort(np.concatenate([np.arange(N)[::2], np.arange(N)[1::2]])) if form == "two sides" else np.arange(N)
    assert np.array_equal(arrays["x"][order], x) and np.array_equal(arrays["y"][order], y)
    assert ("split" in arrays) == (form == "two sides")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (7, "a int is no data set"),
        ({"x": np.zeros((3, 2))}, "no y in it"),
        ((np.full((3, 4, 4, 3), 1.7), np.arange(3)), "uint8, or k / 255"),
        ((np.full((3, 4, 4, 3), 0.1234), np.arange(3)), "before they are normalised"),
        ([(np.zeros((4, 4, 3), np.uint8), 0), (np.zeros((5, 4, 3), np.uint8), 1)], r"sample 1 has shape \(5, 4, 3\)"),
        ([(np.zeros(4), 0.5)], "class of sample 0 is 0.5"),
        ([1, 2], "sample 0 is a int"),
        ([], "no samples"),
        ({"train": (np.zeros((3, 2)), np.arange(3))}, "none of test, val"),
    ],
)
def test_what_is_no_data_set_is_said_with_the_row(given: Any, words: str) -> None:
    with pytest.raises(ClkError, match=words):
        as_arrays(given, where="here")


OWN = """
import numpy as np

def pictures():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 10)
    return rng.integers(0, 255, (40, 8, 8, 3)).astype(np.uint8), y

def vectors():
    return {"x": np.random.default_rng(0).normal(size=(40, 5)), "y": np.repeat(["a", "b", "c", "d"], 10)}

def broken():
    raise RuntimeError("no disk")
"""


def test_a_callable_of_a_file_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))
    stream = build_images(Own(path=f"{tmp_path / 'own.py'}:pictures", n_stages=2), Resources())
    assert (stream.task, stream.name, stream.n_classes) == ("image -> class", "pictures", 4)
    stream = build_vectors(Own(path=f"{tmp_path / 'own.py'}:vectors", n_stages=2), Resources())
    assert (stream.task, stream.class_names) == ("vector -> class", ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("own.py", "does not read FILE.py:CALLABLE"),
        ("gone.py:pictures", "no file gone.py"),
        ("own.py:picture", "did you mean pictures"),
        ("own.py:broken", "raised RuntimeError: no disk"),
        ("own.py:vectors", "no image a sample"),
    ],
)
def test_a_callable_that_does_not_do_is_one_message(
    tmp_path: Path, path: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))
    assert main(["run", "--dataset", f"module:{path}", "--learner", "clk:er"]) == 2
    assert words in capsys.readouterr().err


# ---- objects ----------------------------------------------------------------------------------------------------


def test_a_network_and_arrays_run_in_one_call_and_stay_as_they_were(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    net, said = network(), []
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = cl_kernel.run(
        model=net,
        dataset=pictures,
        learner="er",
        memory="20",
        settings={**QUICK, "learner.epochs": 80, "learner.lr": 0.05, "learner.batch_size": 8},
        listen=[said.append],
    )
    assert made.results["metrics"]["accuracy"]["seen"][-1]["accuracy"] >= 0.75
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert any("object of this process" in event.text for event in said if isinstance(event, events.Noted))


def test_the_same_objects_give_the_same_run_and_other_ones_another(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pictures
    runs = [
        cl_kernel.run(model=net, dataset=data, learner="naive", settings=QUICK).results["state_digest"]
        for net, data in ((network(), (x, y)), (network(), (x.copy(), y)), (network(), (255 - x, y)))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_data_given_as_objects_are_found_by_another_process(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    made = cl_kernel.run(dataset=pictures, learner="linear", settings=QUICK)
    assert main(["reproduce", str(made.folder)]) == 0


def test_a_network_of_another_process_is_asked_for(pictures: tuple[np.ndarray, np.ndarray], clk: Any) -> None:
    made = cl_kernel.run(model=network(), dataset=pictures, learner="naive", settings=QUICK)
    failed = clk("reproduce", made.folder.resolve(), code=2)
    assert "object of a Python process" in failed.stderr and "module:FILE.py:CALLABLE" in failed.stderr


def test_a_class_of_a_module_is_named_so_that_the_run_reproduces(
    tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_of_mine.py").write_text(
        "from torch import nn\n\ndef small(n_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, n_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import nets_of_mine  # type: ignore[import-not-found]

    made = cl_kernel.run(model=nets_of_mine.small, dataset=pictures, learner="naive", settings=QUICK)
    asked = str(read_json(made.folder / "run.json"))
    assert "module:nets_of_mine:small" in asked


@pytest.mark.parametrize(
    ("model", "words"), [(7, "a int is no network"), (lambda n_classes: None, "no module that another process")]
)
def test_what_is_no_network_is_refused(model: Any, words: str, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ClkError, match=words):
        cl_kernel.run(model=model, dataset=pictures, learner="naive", settings=QUICK)


def test_a_head_that_does_not_fit_is_named(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 7))
    with pytest.raises(ClkError, match=r"classifier has 7 outputs.*4\s+classes"):
        cl_kernel.run(model=net, dataset=pictures, learner="naive", settings=QUICK)
    cl_kernel.run(model=net, dataset=pictures, learner="naive", settings={**QUICK, "model.new_head": True})
