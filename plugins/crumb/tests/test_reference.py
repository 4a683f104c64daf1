"""Every case of the golden manifest, by kind: what our code computes beside what the authors' code computed.

A check takes every parameter from its case: a case fails when it holds an array, a hyper-parameter or an argument that
its check never looked at.
"""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel.methods import agem, cope, exemplar_sets, gem, gradients, icarl, lwf
from cl_kernel.methods.ewc import Ewc
from cl_kernel.methods.l2 import L2
from cl_kernel.methods.mas import Mas
from cl_kernel.methods.online_ewc import OnlineEwc
from cl_kernel.methods.penalty import Consolidation
from cl_kernel.methods.si import PathIntegral, Si
from cl_plugin_crumb.data import ilab, lists, toybox
from cl_plugin_crumb.evaluate import accuracy, statistics, tables
from cl_plugin_crumb.method import losses, policies
from cl_plugin_crumb.method import steps as train
from cl_plugin_crumb.network import codebook, maps

PLUGIN = "crumb"
OWN = Path(__file__).parent / "golden"


class Case(dict[str, Any]):
    """Named values of a case, which remember what was looked at."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return super().get(name, default)

    def starting(self, prefix: str) -> list[str]:
        return [name for name in self if name.startswith(prefix)]

    def check_used(self) -> None:
        assert not set(self) - self.seen, f"the check uses nothing of {', '.join(sorted(set(self) - self.seen))}"


CHECKS: dict[str, Callable[[Case, dict], None]] = {}


def _manifest(config: pytest.Config) -> tuple[Path, dict | None]:
    given = config.getoption("--golden-dir")
    if given is None:
        return OWN, json.loads((OWN / "manifest.json").read_text())
    for place in (given, given / PLUGIN):
        if (place / "manifest.json").is_file():
            manifest = json.loads((place / "manifest.json").read_text())
            if manifest.get("plugin") == PLUGIN:
                return place, manifest
    if list(given.glob("manifest.json")) or list(given.glob("*/manifest.json")):
        return given, None
    raise pytest.UsageError(f"{given} holds no manifest.json")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    folder, manifest = _manifest(metafunc.config)
    if manifest is None:
        metafunc.parametrize(("folder", "case"), [(folder, None)], ids=["none of this plugin"])
        return
    metafunc.parametrize(
        ("folder", "case"),
        [(folder, case) for case in manifest["cases"]],
        ids=[case["case"] for case in manifest["cases"]],
    )


def test_reference(folder: Path, case: dict | None) -> None:
    if case is None:
        assert all(json.loads(p.read_text()).get("plugin") != PLUGIN for p in folder.rglob("manifest.json"))
        return
    assert case["kind"] in CHECKS, f"no check for kind {case['kind']!r}"
    torch.set_num_threads(1)
    with np.load(folder / case["file"]) as content:
        arrays = Case({name: content[name] for name in content.files})
    assert set(case["arrays"]) == set(arrays)
    CHECKS[case["kind"]](arrays, case)
    arrays.check_used()


def check(kind: str) -> Callable[[Callable[[Case, dict], None]], None]:
    def register(function: Callable[[Case, dict], None]) -> None:
        CHECKS[kind] = function

    return register


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def close(actual: object, expected: np.ndarray, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(
        np.asarray(actual.detach() if isinstance(actual, Tensor) else actual), expected, rtol=rtol, atol=atol
    )


def hyper_parameters(z: Case) -> Case:
    return Case(dict(zip(z["hyper_names"].tolist(), z["hyper"].tolist(), strict=True)))


def said(text: str, pattern: str, default: str | None = None) -> str:
    """What the case's description says where the pattern has its group."""
    found = re.search(pattern, text)
    assert found or default is not None, f"no {pattern!r} in {text!r}"
    return found[1] if found else str(default)


def named_values(text: str) -> Case:
    """``lr 0.05, momentum 0.9, ...`` as names and values; a word without a value is True."""
    out: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition(" ")
        number = re.fullmatch(r"-?[\d.]+(e-?\d+)?", value)
        out.update({name: float(value)} if name and number else {part.strip(): True})
    return Case(out)


def test_a_check_that_ignores_part_of_its_case_fails() -> None:
    case = Case({"lr": 0.1, "replay_times": 2})
    assert case["lr"] == 0.1
    with pytest.raises(AssertionError, match="replay_times"):
        case.check_used()


def test_crops_of_maps_keep_the_share_that_they_have_of_seven_places() -> None:
    assert [maps.crop_scale(side) for side in (7, 13)] == [(pytest.approx(2 / 7), 1.0), (pytest.approx(4 / 13), 1.0)]


# ---- codebook --------------------------------------------------------------------------------

MATCHED = {"random_distmatch_dense": 1, "random_distmatch_sparse": 2, "distmatch_augmented_sparse": 2}
MATCHED |= {"random_everyperm": 1, "random_everyperm_shuffled": 1, "random_everyperm_remove_half_rows": 1}
MATCHED |= {"random_distmatch_sparse_scratch_pretrain": 2}
"""Start -> how many of sigma and sparsity it takes; ``rigid_everyperm`` has named values instead."""


def start_parameters(strategy: str, text: str) -> dict[str, float]:
    parts = text.split("_") if text else []
    named = [re.fullmatch(r"([a-z]+)(-?[\d.]+)", part) for part in parts]
    if strategy == "rigid_everyperm":
        assert all(named), f"{text!r} has values without names"
        values = {found[1]: float(found[2]) for found in named if found}
        assert set(values) <= {"high", "low", "jitter"}
        return values
    assert not any(named)
    assert len(parts) <= MATCHED.get(strategy, 0), f"{strategy} does not use {text!r}"
    values = dict(zip(("sigma", "sparsity"), map(float, parts), strict=False))
    if strategy == "random_distmatch_sparse_scratch_pretrain":
        assert tuple(values.values()) in ((), codebook.SCRATCH)
    return values


@check("codebook_init")
def _(z: Case, case: dict) -> None:
    seed = int(z["seed"])
    for name in set(z) - {"seed"}:
        strategy, size, *matched = name.split("__")
        n_blocks, length = map(int, size.split("_"))
        found = codebook.start_values(
            strategy,
            n_blocks,
            length,
            **start_parameters(strategy, "_".join(matched)),
            generator=torch.Generator().manual_seed(seed),
            rng=np.random.RandomState(seed),
        )
        close(found, z[name])


@check("assign_reconstruct")
def _(z: Case, case: dict) -> None:
    features, book = tensor(z["features"]), nn.Parameter(tensor(z["codebook"]))
    close(codebook.similarity(features, book), z["similarity"])
    clear = ~z["ambiguous"]
    found = codebook.assign(features, book)
    np.testing.assert_array_equal(found.numpy()[clear], z["indices"][clear])
    blank = (codebook.slices(features, book.shape[1]) == 0).all(1).view(found.shape)
    assert (found[blank] == 0).all()
    # From here on with the recorded indices: where two scores tie, either choice is right.
    indices = tensor(z["indices"])
    packed = codebook.pack(indices, len(book))
    assert packed.dtype == codebook.code_dtype(len(book))
    np.testing.assert_array_equal(packed, z["storage_row"])
    shape = tuple(features.shape[1:])
    rebuilt = codebook.rebuild(indices, book)
    close(rebuilt, z["reconstruction"])
    close(codebook.rebuild(codebook.unpack(packed, shape, book.shape[1]), book), z["decoded"])
    rebuilt.backward(tensor(z["grad_reconstruction"]))
    close(book.grad, z["grad_codebook"])
    stats = codebook.statistics(book, features, rebuilt)
    for name, expected in zip(z["mem_stats_keys"], z["mem_stats_values"], strict=True):
        assert stats[str(name)] == pytest.approx(expected, rel=1e-5, abs=1.1e-5), name


# ---- the tiny network ------------------------------------------------------------------------


def conv(weight: np.ndarray, bias: np.ndarray, stride: int = 1) -> nn.Conv2d:
    out, into, size, _ = weight.shape
    layer = nn.Conv2d(into, out, size, stride, padding=size // 2)
    layer.weight.data, layer.bias.data = tensor(weight), tensor(bias)
    return layer


class Fire(nn.Module):
    def __init__(self, z: Case, prefix: str) -> None:
        super().__init__()
        self.squeeze, self.expand1, self.expand3 = (
            conv(z[f"{prefix}H_{name}_w"], z[f"{prefix}H_{name}_b"]) for name in ("squeeze", "expand1", "expand3")
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1(x)), F.relu(self.expand3(x))], 1)


class Tiny:
    """Extractor, head and codebook of the manifest's description, with the case's weights."""

    def __init__(self, z: Case, case: dict, prefix: str = "") -> None:
        what = case["what"]
        first = conv(z[f"{prefix}E_conv_w"], z[f"{prefix}E_conv_b"], int(said(what, r"stride (\d+)", "2")))
        assert int(said(what, r"pad (\d+) \(E_conv", str(first.padding[0]))) == first.padding[0]
        side = int(said(what, r"max pool to (\d+)x", "4"))
        self.extractor = nn.Sequential(first, nn.ReLU(), nn.AdaptiveMaxPool2d(side)).requires_grad_(False)
        self.head = nn.Sequential(
            Fire(z, prefix),
            conv(z[f"{prefix}H_cls_w"], z[f"{prefix}H_cls_b"]),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.book = codebook.Codebook(tensor(z[f"{prefix}codebook"])) if f"{prefix}codebook" in z else None
        if self.book is not None and re.search(r"[Cc]odebook frozen|freeze_memory", what):
            self.book.requires_grad_(False)

    def named(self) -> dict[str, Tensor]:
        fire, classes = self.head[0], self.head[1]
        layers = {"squeeze": fire.squeeze, "expand1": fire.expand1, "expand3": fire.expand3, "cls": classes}
        out = {
            f"H_{name}_{kind}": getattr(layer, attribute)
            for name, layer in layers.items()
            for kind, attribute in (("w", "weight"), ("b", "bias"))
        }
        return {**out, "codebook": self.book.blocks}

    def optimizer(self, lr: float, momentum: float, decay: float) -> torch.optim.Optimizer:
        return torch.optim.SGD([*self.head.parameters(), *self.book.parameters()], lr, momentum, weight_decay=decay)

    def compare(self, z: Case, tag: str) -> None:
        names = [name.removeprefix(tag) for name in z if name.startswith(tag)]
        assert names
        for name in names:
            close(
                self.named()[name].detach() - tensor(z[f"init_{name}"]), z[tag + name] - z[f"init_{name}"], 2e-3, 1e-6
            )


@check("sample_first_batch")
def _(z: Case, case: dict) -> None:
    tiny = Tiny(z, case)
    n_blocks, length = z["codebook"].shape
    rng = np.random.RandomState(int(z["seed"]))
    book = codebook.Codebook(
        codebook.start_values("sample_first_batch", n_blocks, length),
        on_first_batch=lambda f: codebook.sampled_values(f, n_blocks, length, rng),
    )
    features = tiny.extractor(tensor(z["images"]))
    close(features, z["features"])
    close(tiny.head(features), z["direct_logits"])
    close(tiny.head(book(features)), z["out_logits"], 1e-4, 1e-5)
    close(book.blocks, z["codebook"])


@check("codes")
def _(z: Case, case: dict) -> None:
    tiny = Tiny(z, case)
    features = tiny.extractor(tensor(z["images"]))
    np.testing.assert_array_equal(codebook.pack(tiny.book.indices(features), len(z["codebook"])), z["codes"])
    close(tiny.head(features), z["direct_logits"])
    close(tiny.head(tiny.book(features)), z["out_logits"])


@check("test_perturbation")
def _(z: Case, case: dict) -> None:
    tiny = Tiny(z, case)
    features = tiny.extractor(tensor(z["images"]))
    close(features, z["features"])
    kinds = [name.removeprefix("perturbed_") for name in z if name.startswith("perturbed_")]
    assert kinds
    for kind in kinds:
        found = maps.perturb(features, kind, torch.Generator().manual_seed(int(z["seed"])))
        close(found, z[f"perturbed_{kind}"])
        close(tiny.head(found), z[f"direct_{kind}"])
        close(tiny.head(tiny.book(found)), z[f"out_{kind}"])


@check("pretrain_steps")
def _(z: Case, case: dict) -> None:
    tiny, hyper = Tiny(z, case, "init_"), hyper_parameters(z)
    optimizer = tiny.optimizer(hyper["lr"], hyper["momentum"], hyper["weight_decay"])
    weights = losses.Weights(hyper["w_out"], hyper["w_direct"])
    n_classes = tiny.head[1].out_channels
    for step, (images, targets) in enumerate(zip(z["images"], z["targets"], strict=True)):
        features, labels = tiny.extractor(tensor(images)), tensor(targets)
        with torch.no_grad():
            both = {
                "direct": losses.cross_entropy(tiny.head(features), labels, n_classes),
                "out": losses.cross_entropy(tiny.head(tiny.book(features)), labels, n_classes),
            }
        found = train.step_new(
            tiny.head, tiny.book, optimizer, features, labels, n_classes, weights, clamp=hyper["clamp"]
        )
        assert set(found) == {name for name in both if getattr(weights, name)}
        for name, value in (both | found).items():
            close(value, z[f"loss_{name}"][step])
        tiny.compare(z, f"s{step + 1}_")
    hyper.check_used()


class Remembered:
    """What a case says is remembered, by class, and the maps that a replay step makes of it."""

    def __init__(self, z: Case, storage: str, tiny: Tiny, seed: int) -> None:
        self.storage, self.tiny, self.images = storage, tiny, z["images"]
        self.shape = tuple(tiny.extractor(tensor(self.images[0])).shape[1:])
        self.rows = {int(name.split("_")[-1]): z[name] for name in z.starting("memory_")}
        self.moments: dict[int, policies.Moments] = {}
        for name in z.starting("welford_examples_"):
            c = int(name.split("_")[-1])
            self.moments[c] = policies.Moments()
            self.moments[c].add(z[name])
            close(self.moments[c].mean, z[f"welford_mean_{c}"], 1e-5, 1e-7)
            close(self.moments[c].variance, z[f"welford_varp_{c}"], 1e-5, 1e-7)
        self.rng, self.normal = random.Random(seed), np.random.RandomState(seed)
        self.store = policies.ClassStore(permute=lambda n: np.arange(n))
        for c in self.rows or self.moments:
            self.store.rows[c] = np.arange(len(self.rows[c])) if self.rows else np.zeros(1, np.int64)
        self.picks: list[tuple[int, int, int]] = []

    def pick(self, n: int) -> int:
        if self.moments:
            return 0
        drawn = self.rng.randint(0, n - 1)
        self.picks.append((0, n - 1, drawn))
        return drawn

    def maps(self, rows: np.ndarray, labels: np.ndarray) -> Tensor:
        if self.storage == "merec":
            drawn = [self.moments[int(c)].draw(self.normal.randn(int(np.prod(self.shape)))) for c in labels]
            return tensor(np.stack(drawn)).float().view(-1, *self.shape)
        stored = np.stack([self.rows[int(c)][r] for r, c in zip(rows, labels, strict=True)])
        if self.storage == "feature":
            book = self.tiny.book.blocks
            return codebook.rebuild(codebook.unpack(stored, self.shape, book.shape[1]), book)
        if self.storage == "image":
            return self.tiny.extractor(tensor(stored).view(-1, *self.images.shape[2:]))
        assert self.storage in ("raw_feature", "enhanced_raw_feature")
        return tensor(stored).view(-1, *self.shape)


@check("stream_steps")
def _(z: Case, case: dict) -> None:
    tiny = Tiny(z, case, "init_")
    hyper = named_values(said(case["what"], r"storage type \w+, (.*?) \("))
    hyper.update({name: float(z[name]) for name in ("replay_coef", "replay_times") if name in z})
    optimizer = tiny.optimizer(hyper["lr"], hyper["momentum"], hyper["wd"])
    storage = said(case["what"], r"storage type (\w+)")
    uses_codes = storage == "feature"
    kept = Remembered(z, storage, tiny, int(z["seed"]))
    direct_too = hyper.get("plus direct loss", False)
    weights = losses.Weights(1.0, float(direct_too)) if uses_codes else losses.Weights(0.0, 1.0)
    if hyper.get("direct loss only", False):
        weights = losses.Weights(0.0, 1.0)
    clamp = hyper.get("clamp", train.CLAMP)
    log: list[float] = []
    for step, (images, targets) in enumerate(zip(z["images"], z["targets"], strict=True), 1):
        features, labels = tiny.extractor(tensor(images)), tensor(targets)
        active = list(range(max(targets.max(), max(kept.store.rows)) + 1))
        n_active = losses.check_active(active)
        with torch.no_grad():
            direct = losses.cross_entropy(tiny.head(features), labels, n_active)
            rebuilt = tiny.book(features) if uses_codes else features
            out = losses.cross_entropy(tiny.head(rebuilt), labels, n_active)
        book = tiny.book if uses_codes else None
        train.step_new(tiny.head, book, optimizer, features, labels, n_active, weights, clamp)
        tiny.compare(z, f"s{step}a_")
        log += [float(out), float(direct)]
        for _ in range(int(hyper["replay_times"])):
            classes = kept.store.replay_classes(active, targets)
            if not classes:
                log.append(float("nan"))
                continue
            rows, old = kept.store.picks(classes, len(targets), kept.pick)
            np.testing.assert_array_equal(old, z[f"replay_labels_step{step}"])
            replayed = kept.maps(rows, old)
            coefficient = hyper["replay_coef"]
            log.append(
                float(train.step_replay(tiny.head, optimizer, replayed, tensor(old), n_active, coefficient, clamp))
            )
        tiny.compare(z, f"s{step}b_")
    close(log, z["loss_log"])
    np.testing.assert_array_equal(np.array(kept.picks, np.int64).reshape(-1, 3), z.get("picks", np.zeros((0, 3))))
    hyper.check_used()


# ---- memory ----------------------------------------------------------------------------------


@check("replay_buffer")
def _(z: Case, case: dict) -> None:
    generator = torch.Generator().manual_seed(int(z["seed"]))
    store = policies.ClassStore(permute=lambda n: torch.randperm(n, generator=generator).numpy())
    capacity, size = int(z["capacity"]), int(z["batch_size"])
    seen: set[int] = set()
    n_tasks = sum(name.endswith("_ids") for name in z)
    nothing = np.zeros(0, np.int64)
    for task in range(n_tasks):
        ids, labels = z[f"t{task}_ids"], z[f"t{task}_labels"]
        seen |= set(labels.tolist())
        batches = [(ids[at : at + size], labels[at : at + size]) for at in range(0, len(ids), size)]
        before = np.concatenate([*store.rows.values(), ids])
        gone = policies.update(store, batches, sorted(seen), capacity, size)
        for c in sorted(seen):
            np.testing.assert_array_equal(store.rows.get(c, nothing), z.get(f"t{task}_store_c{c}", nothing))
        assert len(store) <= capacity
        assert sorted([*gone, *np.concatenate(list(store.rows.values()))]) == sorted(before)


@check("random_resize_crop")
def _(z: Case, case: dict) -> None:
    scale = tuple(z["scale"].tolist())
    rng = random.Random(int(z["seed"]))
    boxes = [maps.crop_box(*z["maps"].shape[2:], scale, rng) for _ in z["maps"]]
    np.testing.assert_array_equal(boxes, z["params"])
    close(maps.resized_crops(tensor(z["maps"]), random.Random(int(z["seed"])), scale), z["outputs"], 1e-5, 1e-5)


# ---- scores and files ------------------------------------------------------------------------


@check("accuracy")
def _(z: Case, case: dict) -> None:
    (name,) = [name for name in z if name.startswith("top")]
    ks = [int(part.removeprefix("top")) for part in name.split("_")]
    close(accuracy.accuracy(z["logits"], z["targets"], ks), z[name], 1e-5, 1e-4)


@check("csv_outputs")
def _(z: Case, case: dict) -> None:
    given = json.loads(str(z["accuracies_json"]))
    expected = dict(zip(map(str, z["paths"]), map(str, z["contents"]), strict=True))
    (base,) = {str(Path(path).parent) for path in expected if path.endswith("_all_runs.csv")}
    scenario, agent, *runs = base.split("/")
    name, _, model = agent.removesuffix("_offline").rpartition("_")
    numbers = [int(n) for n in runs[0].split("-")[1:]] if runs else []
    assert base == str(tables.folder(scenario, name, model, offline=agent.endswith("_offline"), runs=numbers))
    assert not numbers or sorted(map(int, given)) == numbers
    ks = sorted({int(said(Path(path).name, r"^top(\d+)_")) for path in expected if path.endswith("_all_runs.csv")})
    pretraining = not any("_1st_" in path for path in expected)
    found = {f"{base}/{path}": text for path, text in tables.texts(given, ks, pretraining=pretraining).items()}
    stats = f"{base}/mem_stats.csv"
    if stats in expected:
        rows = pd.read_csv(io.StringIO(expected[stats]), index_col=0).to_dict("records")
        found[stats] = tables.mem_stats(rows)
    assert found == expected


@check("statistics")
def _(z: Case, case: dict) -> None:
    def runs(arm: str, scenario: str) -> list[np.ndarray]:
        names = [name for name in z if name.startswith(f"{arm}__{scenario}__run")]
        return [z[name] for name in sorted(names, key=lambda name: int(name.rsplit("run", 1)[1]))]

    arms = list(dict.fromkeys(name.split("__")[0] for name in z if name.count("__") == 2))
    ours, (control,) = "unablated", [arm for arm in arms if arm != "unablated"]
    for scenario, expected in zip(z["ttest_order"], z["ttest_statistic_pvalue"], strict=True):
        found = statistics.paired_t_test(
            [r[:, 0] for r in runs(ours, scenario)], [r[:, 0] for r in runs(control, scenario)]
        )
        close([found.statistic, found.p], expected, 1e-4, 0)
    for at, name in enumerate(z["shape_order"]):
        scenario, kind = str(name).split("/")
        column = {"spatial": 1, "feature": 2, "style": 3}[kind]
        found = statistics.shape_bias(
            *([(r[:, 0], r[:, column]) for r in runs(arm, scenario)] for arm in (ours, control))
        )
        close(found.advantage, z["advantage"][at], 1e-4, 6e-6)
        close(found.p, z["wilcoxon_p"][at], 1e-4, 0)
        close(found.spread, z["std_of_run_means"][at], 1e-4, 0)
        close(found.drops, z["relative_drops"][at], 1e-4, 0)


# ---- data ------------------------------------------------------------------------------------


def script_arguments(words: list[str]) -> Case:
    """Arguments of the authors' ``task_setup.py``, its defaults filled in."""
    out: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            out[word.removeprefix("--")] = []
        else:
            out[list(out)[-1]].append(word)
    defaults = {"dataset": ["core50"], "scenario": ["iid"], "n_runs": ["10"], "task_size_iid": ["1200"]}
    defaults |= {"n_class": ["2"], "n_instance": ["80"], "test_sess": ["3", "7", "10"]}
    return Case({**{name: value for name, value in defaults.items() if name not in out}, **out})


@check("task_filelists")
def _(z: Case, case: dict) -> None:
    given = {str(n): pd.read_csv(io.StringIO(str(t))) for n, t in zip(z["dirmap_names"], z["dirmap_csv"], strict=True)}
    asked = script_arguments(z["arguments"].tolist())
    asked.get("sample_rate")  # their script reads it and takes every 20th frame whatever it says
    (dataset,), (scenario,), (n_runs,) = asked["dataset"], asked["scenario"], asked["n_runs"]
    options = {name: int(asked[name][0]) for name in ("n_class", "n_instance", "task_size_iid")}
    sessions = [int(word) for word in asked["test_sess"]]
    counts = [int(word) for word in asked.get("classes_per_dataset", [])]
    offline = asked.get("offline") is not None
    folders = lists.FOLDERS if asked.get("o2") is None else lists.SHARED_FOLDERS
    table = lists.prepare(dataset, given, folders)
    expected = dict(zip(map(str, z["paths"]), map(str, z["contents"]), strict=True))
    shared: dict[str, Any] = {"offline": offline, "test_sessions": sessions, **options}
    found = {}
    for run in range(int(n_runs)):
        made = lists.make(dataset, table, scenario, run=run, shipped=True, class_counts=counts, **shared)
        place = lists.folder(dataset, scenario, run, offline)
        found |= {str(place / name): text for name, text in lists.texts(made).items()}
    asked.check_used()
    if scenario == "instance":
        # As shipped, clips are cut by the wrong columns: ours must differ, and be whole clips in temporal order.
        assert found != expected
        for run in range(int(n_runs)):
            made = lists.make(dataset, table, scenario, run=run, **shared)
            everything = pd.concat(made.tasks)
            clips = everything.groupby(["class", "object", "session"], sort=False)
            assert all(rows["im_num"].is_monotonic_increasing for _, rows in clips)
            if not offline:
                assert len(everything) == (~table["session"].isin(sessions)).sum()
                assert (clips.ngroup().diff().fillna(0) != 0).sum() == clips.ngroups - 1
        return
    assert set(found) == set(expected)
    for path, text in expected.items():
        if path.endswith("train_all.txt"):
            pd.testing.assert_frame_equal(
                pd.read_csv(io.StringIO(found[path])), pd.read_csv(io.StringIO(text)), check_dtype=False
            )
        else:
            assert found[path] == text, path


@check("toybox_sample")
def _(z: Case, case: dict) -> None:
    numbers = ["class", "object", "session", "im_num"]
    table = pd.DataFrame(z["in_numbers"].astype(int), columns=numbers)
    paths = [str(z["path_format"]).format(**row) for row in table.to_dict("records")]
    found = toybox.sample(table.assign(im_path=paths))
    assert ["Unnamed: 0", *found.columns] == z["out_columns"].tolist()
    np.testing.assert_array_equal(found[numbers], z["out_numbers"])
    sources = dict(zip(paths, z["in_numbers"].tolist(), strict=True))
    np.testing.assert_array_equal([sources[path] for path in found["im_path"]], z["out_source"])


@check("ilab_index_sample")
def _(z: Case, case: dict) -> None:
    numbers = ["object", "session", "im_num"]
    indexed = ilab.index(map(str, z["in_paths"]))
    assert indexed["im_path"].tolist() == z["indexed_paths"].tolist()
    np.testing.assert_array_equal(indexed[numbers], z["indexed_numbers"])
    sampled = ilab.sample(indexed, int(said(case["what"], r"random.seed\((\d+)\)")))
    assert ["Unnamed: 0", *sampled.columns] == z["sampled_columns"].tolist()
    assert sampled["im_path"].tolist() == z["sampled_paths"].tolist()
    np.testing.assert_array_equal(sampled[numbers], z["sampled_numbers"])


# ---- baselines -------------------------------------------------------------------------------


ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def mlp(z: Case, case: dict) -> nn.Module:
    """The network that the description lists, with the case's weights."""
    net = nn.Sequential()
    for at, part in enumerate(said(case["what"], r"tiny MLP \(?(fc1[^;):]*)").split(",")):
        name, _, shape = part.strip().partition(" ")
        if name in ACTIVATIONS:
            net.add_module(f"{name}{at}", ACTIVATIONS[name]())
            continue
        into, out = map(int, shape.split("->"))
        net.add_module(name, nn.Linear(into, out))
    net.load_state_dict({name: tensor(z[f"init_{name}"]) for name in net.state_dict()})
    return net


def compare_parameters(net: nn.Module, z: Case, tag: str) -> None:
    for name, value in net.named_parameters():
        close(value.detach() - tensor(z[f"init_{name}"]), z[f"{tag}{name}"] - z[f"init_{name}"], 2e-3, 1e-6)


WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}


CONSOLIDATIONS: dict[str, Callable[[float], Consolidation]] = {
    "l2": L2,
    "ewc": lambda strength: Ewc(strength, per_sample=False),
    "ewc-online": lambda strength: OnlineEwc(strength, per_sample=False, decay=1.0),
    "si": lambda strength: Si(strength, path=PathIntegral(signed=True)),
    "mas": lambda strength: Mas(strength, per_sample=False),
}


@check("baseline_regularisation")
def _(z: Case, case: dict) -> None:
    hyper, what = hyper_parameters(z), case["what"]
    title = what.split(":")[0].lower()
    method = "ewc-online" if "online" in title else title.split()[0].replace("_", "-")
    net, size = mlp(z, case), int(hyper["batch_size"])
    optimizer = torch.optim.SGD(net.parameters(), hyper["lr"], hyper["momentum"], weight_decay=hyper["weight_decay"])
    keeper = CONSOLIDATIONS[method](hyper["reg_coef"])
    active = [json.loads(part) for part in re.findall(r"\[[\d,]+\]", said(what, r"active classes ([^)]*)"))]
    first_probes = WORDS[said(what, r"first (\w+) probe rows after task 0")]
    assert (
        len(active) == WORDS[said(what, r": (\w+) tasks")] == sum(re.fullmatch(r"x\d+", name) is not None for name in z)
    )
    for task, classes in enumerate(active):
        x, y = tensor(z[f"x{task}"]), tensor(z[f"y{task}"])
        n_active = losses.check_active(classes)
        keeper.begin(net)
        n_epochs = int(hyper["epochs_task0"]) if task == 0 else 1
        for epoch in range(n_epochs):
            for bx, by in zip(x.split(size), y.split(size), strict=True):
                keeper.step(net, optimizer, F.cross_entropy(net(bx)[:, :n_active], by))
            if "every epoch" in what and epoch < n_epochs - 1 and isinstance(keeper, Si):
                # As released, importance of all but the last epoch of the first task is computed and dropped.
                keeper.path.omega = {name: torch.zeros_like(value) for name, value in keeper.path.omega.items()}
        keeper.end(net, zip(x.split(size), y.split(size), strict=True), n_active)
        compare_parameters(net, z, f"t{task}_param_")
        for at, slot in enumerate(keeper.anchors, 1):
            for name in slot.anchor:
                close(slot.importance[name], z[f"t{task}_slot{at}_importance_{name}"], 1e-3, 1e-8)
                close(
                    slot.anchor[name] - tensor(z[f"init_{name}"]),
                    z[f"t{task}_slot{at}_anchor_{name}"] - z[f"init_{name}"],
                    2e-3,
                    1e-6,
                )
        moved = mlp(z, case)
        moved.load_state_dict({name: value + tensor(z[f"pert_{name}"]) for name, value in net.state_dict().items()})
        rows = first_probes if task == 0 else len(z["probe_x"])
        ce = F.cross_entropy(moved(tensor(z["probe_x"][:rows]))[:, :n_active], tensor(z["probe_y"][:rows]))
        close(ce, z[f"t{task}_probe_ce"], 1e-4, 1e-6)
        close(ce + keeper.penalty(moved), z[f"t{task}_probe_loss"], 1e-4, 1e-6)
    hyper.check_used()


@check("gem_projection")
def _(z: Case, case: dict) -> None:
    g = tensor(z["gradient"])
    close(agem.agem(g, tensor(z["agem_reference"])), z["agem_projected"], 1e-4, 1e-5)
    close(tensor(z["gem_task_gradients"]) @ g, z["dot_gem"], 1e-4, 1e-5)
    close(gem.gem(g, tensor(z["gem_task_gradients"]), float(z["gem_margin"])), z["gem_projected"], 1e-4, 1e-5)


@check("baseline_agem")
def _(z: Case, case: dict) -> None:
    what = case["what"]
    lr, momentum, decay = (float(said(what, rf"\b{name} ([\d.e-]*\d)")) for name in ("lr", "momentum", "wd"))
    capacity, batch = int(said(what, r"memory (\d+)")), int(said(what, r"stream batches of (\d+)"))
    size = int(said(what, r"configured batch size (\d+)")) // 10 + 1
    assert size == int(said(what, r"mini-batches of (\d+)"))
    net = mlp(z, case)
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum, weight_decay=decay)
    n_tasks = sum(re.fullmatch(r"x\d+", name) is not None for name in z)
    memory: list[tuple[int, np.ndarray]] = []
    n_active = 0
    for task in range(n_tasks):
        x, y = tensor(z[f"x{task}"]), tensor(z[f"y{task}"])
        n_active = max(n_active, int(y.max()) + 1)
        old = [(tensor(z[f"x{t}"][rows]), tensor(z[f"y{t}"][rows])) for t, rows in memory]
        for bx, by in zip(x.split(batch), y.split(batch), strict=True):
            reference = gradients.reference_gradient(net, old, n_active, size) if old else None
            optimizer.zero_grad()
            F.cross_entropy(net(bx)[:, :n_active], by).backward()
            agem.agem_step(list(net.parameters()), reference, optimizer)
        compare_parameters(net, z, f"t{task}_param_")
        kept = {
            int(name.split("_")[2].removeprefix("task")) - 1: z[name] for name in z.starting(f"t{task}_memory_task")
        }
        shares = gem.stage_shares(capacity, [rows for _, rows in memory], kept[task])
        assert len(shares) == len(kept)
        for t, rows in enumerate(shares):
            np.testing.assert_array_equal(rows, kept[t])
        memory = list(enumerate(shares))


@check("icarl")
def _(z: Case, case: dict) -> None:
    means = []
    classes = sorted(int(name.removeprefix("features_class")) for name in z if name.startswith("features_class"))
    for c in classes:
        features, order = tensor(z[f"features_class{c}"]), z[f"herding_order_class{c}"]
        np.testing.assert_array_equal(exemplar_sets.herding_shipped(features, len(order)), order)
        means.append(exemplar_sets.prototype(features[tensor(order)], normalised_first=False))
        close(means[-1], z[f"mean_class{c}"], 1e-4, 1e-6)
    close(exemplar_sets.nearest_mean_scores(tensor(z["queries"]), torch.stack(means)), z["nme_scores"], 1e-4, 1e-6)
    active = tensor(z["distill_active"])
    close(
        icarl.sigmoid_distillation(tensor(z["distill_logits"])[:, active], tensor(z["distill_old_logits"])[:, active]),
        z["distill_loss"],
        1e-4,
        1e-6,
    )


@check("lwf_loss")
def _(z: Case, case: dict) -> None:
    close(lwf.sigmoid_loss(tensor(z["logits"]), tensor(z["targets"]), tensor(z["old_logits"])), z["loss"])
    close(lwf.sigmoid_loss(tensor(z["first_task_logits"]), tensor(z["first_task_targets"]), None), z["first_task_loss"])


@check("cope_ppp")
def _(z: Case, case: dict) -> None:
    embeddings = tensor(z["embeddings"]).requires_grad_()
    loss = cope.ppp_loss(embeddings, tensor(z["labels"]), tensor(z["prototypes"]), float(z["temperature"]))
    close(loss, z["loss"], 1e-4, 0)
    loss.backward()
    close(embeddings.grad, z["grad_embeddings"], 1e-4, 1e-7)
