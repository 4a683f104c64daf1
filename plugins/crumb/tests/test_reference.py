"""Every case of the golden manifest, by kind: what our code computes beside what the authors' code computed."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel.torch import exemplars, projection, regularisation
from cl_plugin_crumb.data import ilab, lists, toybox
from cl_plugin_crumb.evaluate import accuracy, statistics, tables
from cl_plugin_crumb.method import losses, policies
from cl_plugin_crumb.method import steps as train
from cl_plugin_crumb.network import codebook, maps

PLUGIN = "crumb"
OWN = Path(__file__).parent / "golden"
Case = dict[str, np.ndarray]
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
        arrays = {name: content[name] for name in content.files}
    assert set(case["arrays"]) <= set(arrays)
    CHECKS[case["kind"]](arrays, case)


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


# ---- codebook --------------------------------------------------------------------------------


@check("codebook_init")
def _(z: Case, case: dict) -> None:
    for name, expected in z.items():
        if name == "seed":
            continue
        strategy, size, *matched = name.split("__")
        n_blocks, length = map(int, size.split("_"))
        sigma, sparsity = ([float(x) for x in matched[0].split("_")] + [None])[:2] if matched else (None, None)
        close(
            codebook.start_values(
                strategy,
                n_blocks,
                length,
                sigma=sigma,
                sparsity=sparsity,
                generator=torch.Generator().manual_seed(int(z["seed"])),
                rng=np.random.RandomState(int(z["seed"])),
            ),
            expected,
        )


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
    assert packed.dtype == np.uint8
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

    def __init__(self, z: Case, prefix: str = "") -> None:
        self.extractor = nn.Sequential(
            conv(z[f"{prefix}E_conv_w"], z[f"{prefix}E_conv_b"], 2), nn.ReLU(), nn.AdaptiveMaxPool2d(4)
        ).requires_grad_(False)
        self.head = nn.Sequential(
            Fire(z, prefix),
            conv(z[f"{prefix}H_cls_w"], z[f"{prefix}H_cls_b"]),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.book = codebook.Codebook(tensor(z[f"{prefix}codebook"])) if f"{prefix}codebook" in z else None

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
    tiny = Tiny(z)
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
    tiny = Tiny(z)
    features = tiny.extractor(tensor(z["images"]))
    np.testing.assert_array_equal(codebook.pack(tiny.book.indices(features), len(z["codebook"])), z["codes"])
    close(tiny.head(features), z["direct_logits"])
    close(tiny.head(tiny.book(features)), z["out_logits"])


@check("test_perturbation")
def _(z: Case, case: dict) -> None:
    tiny = Tiny(z)
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
    tiny, hyper = Tiny(z, "init_"), dict(zip(z["hyper_names"].tolist(), z["hyper"].tolist(), strict=True))
    assert hyper["clamp"] == train.CLAMP
    optimizer = tiny.optimizer(hyper["lr"], hyper["momentum"], hyper["weight_decay"])
    weights = losses.Weights(hyper["w_out"], hyper["w_direct"])
    for step, (images, targets) in enumerate(zip(z["images"], z["targets"], strict=True)):
        features, labels = tiny.extractor(tensor(images)), tensor(targets)
        n_classes = tiny.head[1].out_channels
        with torch.no_grad():
            direct = losses.cross_entropy(tiny.head(features), labels, n_classes)
        found = train.step_new(tiny.head, tiny.book, optimizer, features, labels, n_classes, weights)
        assert ("direct" in found) == bool(weights.direct)
        close(direct, z["loss_direct"][step])
        close(found["out"], z["loss_out"][step])
        tiny.compare(z, f"s{step + 1}_")


@check("stream_steps")
def _(z: Case, case: dict) -> None:
    tiny = Tiny(z, "init_")
    optimizer = tiny.optimizer(0.05, 0.9, 1e-4)
    length = z["init_codebook"].shape[1]
    shape = tuple(tiny.extractor(tensor(z["images"][0])).shape[1:])
    stored = {int(name.split("_")[-1]): rows for name, rows in z.items() if name.startswith("memory_")}
    moments: dict[int, policies.Moments] = {}
    for name in z:
        if name.startswith("welford_examples_"):
            c = int(name.split("_")[-1])
            moments[c] = policies.Moments()
            moments[c].add(z[name])
            close(moments[c].mean, z[f"welford_mean_{c}"], 1e-5, 1e-7)
            close(moments[c].variance, z[f"welford_varp_{c}"], 1e-5, 1e-7)
    uses_codes = bool(stored) and next(iter(stored.values())).dtype.kind == "i"
    rng, normal = random.Random(int(z["seed"])), np.random.RandomState(int(z["seed"]))
    store = policies.ClassStore(permute=lambda n: np.arange(n))
    for c in stored or moments:
        store.rows[c] = np.arange(len(stored[c])) if stored else np.zeros(1, np.int64)
    picks: list[tuple[int, int, int]] = []

    def pick(n: int) -> int:
        if moments:
            return 0
        drawn = rng.randint(0, n - 1)
        picks.append((0, n - 1, drawn))
        return drawn

    weights = losses.STREAMING if uses_codes else losses.Weights(0.0, 1.0)
    book = tiny.book if uses_codes else None
    log = []
    for step, (images, targets) in enumerate(zip(z["images"], z["targets"], strict=True), 1):
        features, labels = tiny.extractor(tensor(images)), tensor(targets)
        active = list(range(max(targets.max(), max(store.rows)) + 1))
        n_active = losses.check_active(active)
        with torch.no_grad():
            direct = losses.cross_entropy(tiny.head(features), labels, n_active)
        found = train.step_new(tiny.head, book, optimizer, features, labels, n_active, weights)
        tiny.compare(z, f"s{step}a_")
        classes = store.replay_classes(active, targets)
        rows, old = store.picks(classes, len(targets), pick)
        np.testing.assert_array_equal(old, z[f"replay_labels_step{step}"])
        if uses_codes:
            codes = np.stack([stored[int(c)][r] for r, c in zip(rows, old, strict=True)])
            maps = codebook.rebuild(codebook.unpack(codes, shape, length), tiny.book.blocks)
        elif stored:
            maps = tensor(np.stack([stored[int(c)][r] for r, c in zip(rows, old, strict=True)])).view(-1, *shape)
        else:
            drawn = [moments[int(c)].draw(normal.randn(int(np.prod(shape)))) for c in old]
            maps = tensor(np.stack(drawn)).float().view(-1, *shape)
        replayed = train.step_replay(tiny.head, optimizer, maps, tensor(old), n_active, float(z["replay_coef"]))
        tiny.compare(z, f"s{step}b_")
        log += [float(found.get("out", direct)), float(direct), float(replayed)]
    close(log, z["loss_log"])
    if "picks" in z:
        np.testing.assert_array_equal(picks, z["picks"])


# ---- memory ----------------------------------------------------------------------------------


@check("replay_buffer")
def _(z: Case, case: dict) -> None:
    generator = torch.Generator().manual_seed(int(z["seed"]))
    store = policies.ClassStore(permute=lambda n: torch.randperm(n, generator=generator).numpy())
    capacity, size = int(z["capacity"]), int(z["batch_size"])
    seen: set[int] = set()
    n_tasks = sum(name.endswith("_ids") for name in z)
    for task in range(n_tasks):
        ids, labels = z[f"t{task}_ids"], z[f"t{task}_labels"]
        seen |= set(labels.tolist())
        batches = [(ids[at : at + size], labels[at : at + size]) for at in range(0, len(ids), size)]
        before = np.concatenate([*store.rows.values(), ids])
        gone = policies.update(store, batches, sorted(seen), capacity, size)
        for c in sorted(seen):
            np.testing.assert_array_equal(store.rows[c], z[f"t{task}_store_c{c}"])
        assert len(store) <= capacity
        assert sorted([*gone, *np.concatenate(list(store.rows.values()))]) == sorted(before)


@check("random_resize_crop")
def _(z: Case, case: dict) -> None:
    scale = tuple(z["scale"].tolist())
    assert scale == pytest.approx(maps.crop_scale(z["maps"].shape[2]))
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
    (base,) = {str(Path(path).parent) for path in expected if path.endswith("mem_stats.csv")}
    scenario, agent, *runs = base.split("/")
    name, _, model = agent.removesuffix("_offline").rpartition("_")
    assert base == str(
        tables.folder(
            scenario,
            name,
            model,
            offline=agent.endswith("_offline"),
            runs=[int(n) for n in runs[0].split("-")[1:]] if runs else (),
        )
    )
    ks = sorted({int(Path(path).name[3]) for path in expected if Path(path).name.startswith("top")})
    pretraining = not any("_1st_" in path for path in expected)
    found = {f"{base}/{path}": text for path, text in tables.texts(given, ks, pretraining=pretraining).items()}
    rows = pd.read_csv(io.StringIO(expected[f"{base}/mem_stats.csv"]), index_col=0).to_dict("records")
    found[f"{base}/mem_stats.csv"] = tables.mem_stats(rows)
    assert found == expected


@check("statistics")
def _(z: Case, case: dict) -> None:
    def runs(arm: str, scenario: str) -> list[np.ndarray]:
        names = [name for name in z if name.startswith(f"{arm}__{scenario}__run")]
        return [z[name] for name in sorted(names, key=lambda name: int(name.rsplit("run", 1)[1]))]

    arms = list(dict.fromkeys(name.split("__")[0] for name in z if name.count("__") == 2))
    ours, control = "unablated", next(arm for arm in arms if arm != "unablated")
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


@check("task_filelists")
def _(z: Case, case: dict) -> None:
    given = {str(n): pd.read_csv(io.StringIO(str(t))) for n, t in zip(z["dirmap_names"], z["dirmap_csv"], strict=True)}
    words = z["arguments"].tolist()
    value = {word: words[at + 1] for at, word in enumerate(words) if word.startswith("--") and at + 1 < len(words)}
    dataset, scenario = value["--dataset"], value["--scenario"]
    sessions = (
        [int(w) for w in words[words.index("--test_sess") + 1 :] if not w.startswith("--")]
        if "--test_sess" in words
        else None
    )
    if sessions is not None:
        count = next(
            (at for at, w in enumerate(words[words.index("--test_sess") + 1 :]) if w.startswith("--")), len(sessions)
        )
        sessions = sessions[:count]
    options = {key: int(value[f"--{key}"]) for key in ("n_class", "n_instance", "task_size_iid") if f"--{key}" in value}
    offline = "--offline" in words
    table = lists.prepare(dataset, given)
    expected = dict(zip(map(str, z["paths"]), map(str, z["contents"]), strict=True))
    found = {}
    for run in range(int(value["--n_runs"])):
        made = lists.make(
            dataset, table, scenario, run=run, offline=offline, test_sessions=sessions, shipped=True, **options
        )
        place = lists.folder(dataset, scenario, run, offline)
        found |= {str(place / name): text for name, text in lists.texts(made).items()}
    if scenario == "instance":
        # As shipped, clips are cut by the wrong columns: ours must differ, and be whole clips in temporal order.
        assert found != expected
        for run in range(int(value["--n_runs"])):
            made = lists.make(dataset, table, scenario, run=run, offline=offline, test_sessions=sessions, **options)
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
    sampled = ilab.sample(indexed)
    assert ["Unnamed: 0", *sampled.columns] == z["sampled_columns"].tolist()
    assert sampled["im_path"].tolist() == z["sampled_paths"].tolist()
    np.testing.assert_array_equal(sampled[numbers], z["sampled_numbers"])


# ---- baselines -------------------------------------------------------------------------------


def mlp(z: Case) -> nn.Module:
    names = sorted({name.split(".")[0].removeprefix("init_") for name in z if name.startswith("init_")})
    layers: dict[str, nn.Module] = {}
    for at, name in enumerate(names):
        out, into = z[f"init_{name}.weight"].shape
        layers[name] = nn.Linear(into, out)
        if at < len(names) - 1:
            layers[f"tanh{at}"] = nn.Tanh()
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    net.load_state_dict({name: tensor(z[f"init_{name}"]) for name in net.state_dict()})
    return net


def compare_parameters(net: nn.Module, z: Case, tag: str) -> None:
    for name, value in net.named_parameters():
        close(value.detach() - tensor(z[f"init_{name}"]), z[f"{tag}{name}"] - z[f"init_{name}"], 2e-3, 1e-6)


@check("baseline_regularisation")
def _(z: Case, case: dict) -> None:
    hyper = dict(zip(z["hyper_names"].tolist(), z["hyper"].tolist(), strict=True))
    title = case["what"].split(":")[0].lower()
    method = title.split()[0].replace("_", "-").replace("ewc-online", "ewc-online")
    if "online" in title:
        method = "ewc-online"
    net, size = mlp(z), int(hyper["batch_size"])
    optimizer = torch.optim.SGD(net.parameters(), hyper["lr"], hyper["momentum"], weight_decay=hyper["weight_decay"])
    keeper = regularisation.Keeper(method=method, strength=hyper["reg_coef"])
    n_tasks = sum(name.startswith("x") and name[1:].isdigit() for name in z)
    n_active = 0
    for task in range(n_tasks):
        x, y = tensor(z[f"x{task}"]), tensor(z[f"y{task}"])
        n_active = max(n_active, int(y.max()) + 1)
        keeper.begin(net)
        for _ in range(int(hyper["epochs_task0"]) if task == 0 else 1):
            for bx, by in zip(x.split(size), y.split(size), strict=True):
                keeper.step(net, optimizer, F.cross_entropy(net(bx)[:, :n_active], by))
        keeper.end(net, zip(x.split(size), y.split(size), strict=True), n_active)
        compare_parameters(net, z, f"t{task}_param_")
        for at, slot in enumerate(keeper.slots, 1):
            for name in slot.anchor:
                close(slot.importance[name], z[f"t{task}_slot{at}_importance_{name}"], 1e-3, 1e-8)
                close(
                    slot.anchor[name] - tensor(z[f"init_{name}"]),
                    z[f"t{task}_slot{at}_anchor_{name}"] - z[f"init_{name}"],
                    2e-3,
                    1e-6,
                )
        assert f"t{task}_slot{len(keeper.slots) + 1}_anchor_{name}" not in z
        moved = mlp(z)
        moved.load_state_dict({name: value + tensor(z[f"pert_{name}"]) for name, value in net.state_dict().items()})
        rows = 2 if task == 0 else len(z["probe_x"])
        ce = F.cross_entropy(moved(tensor(z["probe_x"][:rows]))[:, :n_active], tensor(z["probe_y"][:rows]))
        close(ce, z[f"t{task}_probe_ce"], 1e-4, 1e-6)
        close(ce + keeper.penalty(moved), z[f"t{task}_probe_loss"], 1e-4, 1e-6)


@check("gem_projection")
def _(z: Case, case: dict) -> None:
    g = tensor(z["gradient"])
    close(projection.agem(g, tensor(z["agem_reference"])), z["agem_projected"], 1e-4, 1e-5)
    close(tensor(z["gem_task_gradients"]) @ g, z["dot_gem"], 1e-4, 1e-5)
    close(projection.gem(g, tensor(z["gem_task_gradients"]), float(z["gem_margin"])), z["gem_projected"], 1e-4, 1e-5)


@check("baseline_agem")
def _(z: Case, case: dict) -> None:
    net = mlp(z)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=1e-4)
    n_tasks = sum(name.startswith("x") and name[1:].isdigit() for name in z)
    memory: list[tuple[int, np.ndarray]] = []
    n_active = 0
    for task in range(n_tasks):
        x, y = tensor(z[f"x{task}"]), tensor(z[f"y{task}"])
        n_active = max(n_active, int(y.max()) + 1)
        old = [(tensor(z[f"x{t}"][rows]), tensor(z[f"y{t}"][rows])) for t, rows in memory]
        for bx, by in zip(x.split(4), y.split(4), strict=True):
            reference = projection.reference_gradient(net, old, n_active, 20 // 10 + 1) if old else None
            optimizer.zero_grad()
            F.cross_entropy(net(bx)[:, :n_active], by).backward()
            projection.agem_step(list(net.parameters()), reference, optimizer)
        compare_parameters(net, z, f"t{task}_param_")
        kept = {
            int(name.split("_")[2].removeprefix("task")) - 1: rows
            for name, rows in z.items()
            if name.startswith(f"t{task}_memory_task")
        }
        shares = projection.task_shares(6, [rows for _, rows in memory], kept[task])
        for t, rows in enumerate(shares):
            np.testing.assert_array_equal(rows, kept[t])
        memory = list(enumerate(shares))


@check("icarl")
def _(z: Case, case: dict) -> None:
    means = []
    classes = sorted(int(name.removeprefix("features_class")) for name in z if name.startswith("features_class"))
    for c in classes:
        features, order = tensor(z[f"features_class{c}"]), z[f"herding_order_class{c}"]
        np.testing.assert_array_equal(exemplars.herding_shipped(features, len(order)), order)
        means.append(exemplars.prototype(features[tensor(order)], normalised_first=False))
        close(means[-1], z[f"mean_class{c}"], 1e-4, 1e-6)
    close(exemplars.nearest_mean_scores(tensor(z["queries"]), torch.stack(means)), z["nme_scores"], 1e-4, 1e-6)
    active = tensor(z["distill_active"])
    close(
        exemplars.sigmoid_distillation(
            tensor(z["distill_logits"])[:, active], tensor(z["distill_old_logits"])[:, active]
        ),
        z["distill_loss"],
        1e-4,
        1e-6,
    )


@check("lwf_loss")
def _(z: Case, case: dict) -> None:
    close(exemplars.lwf_loss(tensor(z["logits"]), tensor(z["targets"]), tensor(z["old_logits"])), z["loss"])
    close(
        exemplars.lwf_loss(tensor(z["first_task_logits"]), tensor(z["first_task_targets"]), None), z["first_task_loss"]
    )


@check("cope_ppp")
def _(z: Case, case: dict) -> None:
    embeddings = tensor(z["embeddings"]).requires_grad_()
    loss = exemplars.ppp_loss(embeddings, tensor(z["labels"]), tensor(z["prototypes"]), float(z["temperature"]))
    close(loss, z["loss"], 1e-4, 0)
    loss.backward()
    close(embeddings.grad, z["grad_embeddings"], 1e-4, 1e-7)
