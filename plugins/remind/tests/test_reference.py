"""Every reference case of the authors' code, by kind; ``--golden-dir`` points at more of the same form.

A check takes every parameter from its case: a case fails when it holds an array or a setting that its check never
looked at.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cl_kernel import Field, Memory
from cl_kernel.library.memories import policies
from cl_kernel.library.memories.raw import RawCodec
from cl_kernel.library.settings import LargestClass as LargestClassSettings
from cl_plugin_remind.data import folders as folders_data
from cl_plugin_remind.data import questions
from cl_plugin_remind.evaluate import metrics as evaluate
from cl_plugin_remind.method import augment, losses, pq, step
from cl_plugin_remind.method import questions as vqa_train
from cl_plugin_remind.method.codec import PqCodec
from cl_plugin_remind.network import questions as vqa
from cl_plugin_remind.network.resnet import Part, _block
from cl_plugin_remind.settings import Streaming

PLUGIN = "remind"


class Case(dict[str, Any]):
    """Named values of a case, which remember what was looked at."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()
        self.parts: dict[str, Case] = {}

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def settings(self, name: str) -> Case:
        """The settings that an array holds as json; they remember what was looked at, too."""
        if name not in self.parts:
            self.parts[name] = Case(parsed(self[name]))
        return self.parts[name]

    def starting(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin so, without that beginning."""
        return {name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}

    def no_say(self, *names: str) -> None:
        """Settings that have no part in what is checked here."""
        self.seen.update(names)

    def check_used(self) -> None:
        assert not set(self) - self.seen, f"the check uses nothing of {', '.join(sorted(set(self) - self.seen))}"
        for part in self.parts.values():
            part.check_used()


Arrays = Case
KINDS: dict[str, Callable[[Arrays, Mapping[str, Any]], None]] = {}


def folder_of(given: Path | None) -> Path | None:
    """The folder with this plugin's manifest, or None when the given one is another plugin's."""
    if given is None:
        return Path(__file__).parent / "golden"
    for place in (given, given / PLUGIN):
        if (place / "manifest.json").is_file() and read_manifest(place)["plugin"] == PLUGIN:
            return place
    return None


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--golden-dir")
    folder = folder_of(given)
    cases = [(folder, case) for case in read_manifest(folder)["cases"]] if folder else [(given, None)]
    metafunc.parametrize("case", cases, ids=[case["case"] if case else "no-cases-for-remind" for _, case in cases])


def test_reference_case(case: tuple[Path, dict[str, Any] | None]) -> None:
    folder, entry = case
    if entry is None:
        manifests = [*folder.glob("manifest.json"), *folder.glob("*/manifest.json")]
        assert manifests, f"{folder} holds no manifest.json"
        assert all(read_manifest(path.parent)["plugin"] != PLUGIN for path in manifests)
        return
    assert entry["kind"] in KINDS, f"unknown kind {entry['kind']!r}: extend this test"
    with np.load(folder / entry["file"]) as arrays:
        values = Case(dict(arrays))
    KINDS[entry["kind"]](values, entry)
    values.check_used()


def test_a_check_that_ignores_part_of_its_case_fails() -> None:
    case = Case({"r": np.array(3), "cfg_json": np.array('{"wd": 0.1, "loader": 8}')})
    assert case["r"] == 3
    assert case.settings("cfg_json")["wd"] == 0.1
    with pytest.raises(AssertionError, match="loader"):
        case.check_used()


def said(text: str, pattern: str) -> str:
    """What the case's description says where the pattern has its group."""
    found = re.search(pattern, text)
    assert found, f"no {pattern!r} in {text!r}"
    return found[1]


def kind(function: Callable[..., None]) -> Callable[..., None]:
    KINDS[function.__name__] = function
    return function


def parsed(array: np.ndarray) -> Any:
    return json.loads(str(array))


def quantiser(centroids: np.ndarray) -> pq.Quantiser:
    return pq.Quantiser(torch.from_numpy(centroids))


# ---- quantisation -----------------------------------------------------------------------------------


@kind
def pq_train(z: Arrays, entry: Mapping[str, Any]) -> None:
    calls = re.search(r"ProductQuantizer\(\s*(\w+),\s*(\w+),\s*(\d+)\)", entry["call"])
    assert calls, entry["call"]
    sizes = [int(word) if word.isdigit() else int(z[word]) for word in calls.groups()]
    n_codebooks, n_centroids, length = z["centroids"].shape
    assert sizes == [n_codebooks * length, n_codebooks, int(n_centroids).bit_length() - 1]
    if "feats" in z:
        maps = torch.from_numpy(z["feats"])
        rows = pq.rows_of(maps)
        codes = quantiser(z["centroids"]).encode_maps(maps)
        assert np.array_equal(codes.numpy(), z["codes"])
    else:
        n, d = int(z["n"]), int(z["d"])
        table = (np.random.RandomState(int(z["seed"])).randint(0, 256, (n, d)) / 256).astype(np.float32)
        table[:, :4] += (np.arange(n) % 5)[:, None]
        rows = torch.from_numpy(table)
        codes = quantiser(z["centroids"]).encode(rows[:300])
        assert np.array_equal(codes.numpy(), z["codes300"])
        assert np.array_equal(quantiser(z["centroids"]).decode(codes).numpy(), z["decoded300"])
    trained = pq.train(rows.numpy(), n_codebooks, n_centroids)
    assert trained.shape == z["centroids"].shape
    distortion = {name: mean_square(quantiser(c), rows) for name, c in (("ours", trained), ("theirs", z["centroids"]))}
    # the same algorithm, but a tie may move a single centroid between library versions
    assert distortion["ours"] == pytest.approx(distortion["theirs"], rel=0.01)
    if "mse" in z:
        assert distortion["ours"] == pytest.approx(float(z["mse"]), rel=0.02)


def mean_square(book: pq.Quantiser, rows: torch.Tensor) -> float:
    return float((book.decode(book.encode(rows)) - rows).double().square().mean())


@kind
def pq_encode_given(z: Arrays, entry: Mapping[str, Any]) -> None:
    book = quantiser(z["centroids"])
    codes = book.encode_maps(torch.from_numpy(z["feats"]))
    assert np.array_equal(codes.numpy(), z["codes"])
    assert np.array_equal(book.decode_maps(codes).numpy(), z["rec"])


# ---- the streaming step -----------------------------------------------------------------------------


@kind
def stream(z: Arrays, entry: Mapping[str, Any]) -> None:
    """A case holds any of: rates of a sequence of labels, evictions from a full buffer, whole steps with features."""
    cfg = z.settings("cfg_json")
    assert max(z["stream_labels"]) < cfg["num_classes"]
    checks = [
        check
        for array, check in (("required", rates_of), ("evicted", evictions), ("base_feats", whole_steps))
        if array in z
    ]
    assert checks, f"nothing to check among {sorted(z)}"
    for check in checks:
        check(z)


def whole_steps(z: Arrays) -> None:
    run = Replayed(z)
    codes = run.codec.encode({step.FEATURES: z["base_feats"], step.LABEL: z["base_labels"], step.ITEM: z["base_ids"]})
    assert np.array_equal(codes[step.FEATURES].numpy(), z["base_codes"])
    run.memory.add(
        {step.FEATURES: codes[step.FEATURES], step.LABEL: z["base_labels"], step.ITEM: z["base_ids"]}, z["base_labels"]
    )
    run.eligible = z["base_ids"].tolist()
    run.play()


def rates_of(z: Arrays) -> None:
    cfg = z.settings("cfg_json")
    cfg.no_say("r", "mixup", "crop", "alpha", "max_buffer", "M", "wd", "loader", "grad_clip", "np_seed", "py_seed")
    cfg.no_say("end_lr")  # the decay is given
    rates = step.Rates(cfg["start_lr"], cfg["gamma"], cfg["step"], cfg["lr_mode"] == "step_lr_per_class")
    used, left, never_reset = [], [rates.start], [rates.start]
    for label in z["stream_labels"].tolist():
        used.append(rates.of(label))
        rates.advance(label)
        left.append(rates.of(label))
        falls = rates.per_class and rates.seen[label] % rates.step == 0
        never_reset.append(never_reset[-1] * (rates.gamma if falls else 1))
    assert used == pytest.approx(z["required"].tolist(), rel=1e-9)
    # What the authors' code did instead: with the rate of the sample before, and with rates that only ever fall.
    for name, theirs in (("torch131", left), ("torch2_broken", never_reset)):
        if name in z:
            assert theirs[:-1] == pytest.approx(z[name].tolist(), rel=1e-9), name


def evictions(z: Arrays) -> None:
    cfg = z.settings("cfg_json")
    cfg.no_say("mixup", "crop", "alpha", "lr_mode", "step", "start_lr", "end_lr", "gamma", "M", "wd", "grad_clip")
    cfg.no_say("loader", "py_seed")  # victims are those of the case
    rng = ChosenVictim()
    fields = {step.ITEM: Field(shape=(), dtype="int64", kind="group")}
    capacity = max(cfg["max_buffer"], len(z["base_ids"]))
    policy = policies.build_largest_class(LargestClassSettings(), capacity)
    memory = Memory(policy, RawCodec(fields), capacity, np.random.default_rng(0))
    memory._place_rng = rng
    memory.add({step.ITEM: z["base_ids"]}, z["base_labels"])
    eligible, old = z["base_ids"].tolist(), np.random.RandomState(cfg["np_seed"])
    evicted = iter(z["evicted"].tolist())
    label_of = dict(
        zip(
            [*z["base_ids"].tolist(), *z["stream_ids"].tolist()],
            [*z["base_labels"].tolist(), *z["stream_labels"].tolist()],
            strict=True,
        )
    )
    for position, (item, label) in enumerate(zip(z["stream_ids"].tolist(), z["stream_labels"].tolist(), strict=True)):
        assert len(memory) == len(eligible) == int(z["nelig"][position])
        drawn = [eligible[i] for i in augment.distinct(old, len(eligible), cfg["r"])]
        assert drawn == parsed(z["draw_json"])[position]
        assert set(drawn) <= set(held_items(memory))
        eligible.append(item)
        if len(memory) == capacity:
            victim = next(evicted)
            rng.choose(policy, memory, victim, item, label_of[victim], label)
            eligible.remove(victim)
        memory.add({step.ITEM: np.array([item])}, np.array([label]))
        assert sorted(held_items(memory)) == sorted(eligible)
    assert eligible == z["final_ids"].tolist()
    by_class = {int(name): ids for name, ids in parsed(z["final_cls_json"]).items()}
    for label, ids in by_class.items():
        assert sorted(item for item in held_items(memory) if label_of[item] == label) == sorted(ids)


def held_items(memory: Memory) -> list[int]:
    return memory._slots[step.ITEM][: len(memory)].tolist()


class ChosenVictim:
    """Stands in for a generator: the next number makes the policy evict the item a case recorded."""

    def __init__(self) -> None:
        self.number = 0.0

    def random(self, n: int) -> np.ndarray:
        assert n <= 1
        return np.full(n, self.number)

    def choose_before(self, policy: Any, memory: Memory, victim: int, group: int) -> None:
        tables = policy.tables
        rank = tables.rank(group)
        assert tables.largest() == rank
        slot = held_items(memory).index(victim)
        place = next(p for p in range(tables.sizes[rank]) if tables.at(rank, p) == slot)
        self.number = (place + 0.5) / tables.sizes[rank]

    def choose(self, policy: Any, memory: Memory, victim: int, newcomer: int, group: int, newcomers: int) -> None:
        tables = policy.tables
        rank, mine = tables.rank(group), tables.rank(newcomers)
        size = tables.sizes[rank] + (rank == mine)
        # the class the case evicts from must be the one the policy finds largest, first seen of equals
        grown = [s + (r == mine) for r, s in enumerate(tables.sizes)]
        assert grown.index(max(grown)) == rank
        if victim == newcomer:
            place = size - 1
        else:
            slot = held_items(memory).index(victim)
            place = next(p for p in range(tables.sizes[rank]) if tables.at(rank, p) == slot)
        self.number = (place + 0.5) / size


class Replayed:
    """Our streaming step with the decisions of a reference case."""

    def __init__(self, z: Arrays) -> None:
        self.z, self.cfg = z, z.settings("cfg_json")
        cfg = self.cfg
        n_codebooks, n_centroids, _ = z["centroids"].shape
        assert n_codebooks == cfg["M"]
        shape = z["base_feats"].shape[1:]
        fields = {
            step.FEATURES: Field(shape=shape, dtype="float32", kind="map"),
            step.LABEL: Field(shape=(), dtype="int64", kind="class"),
            step.ITEM: Field(shape=(), dtype="int64", kind="group"),
        }
        self.codec = PqCodec(fields, n_codebooks, n_centroids, 1, torch.device("cpu"))
        self.codec.use(step.FEATURES, z["centroids"])
        most = len(z["base_ids"]) + len(z["stream_ids"])
        capacity = max(cfg["max_buffer"], len(z["base_ids"])) if cfg["max_buffer"] else most
        policy = policies.build_largest_class(LargestClassSettings(), capacity)
        self.memory = Memory(policy, self.codec, capacity, np.random.default_rng(0))
        self.victims = self.memory._place_rng = ChosenVictim()
        self.upper = upper_part(z.starting("F0_"))
        assert z["F0_model.fc.weight"].shape[0] == cfg["num_classes"]
        settings = Streaming(
            replay_samples=cfg["r"],
            mixup=cfg["mixup"],
            crops=cfg["crop"],
            mixup_alpha=cfg["alpha"],
            weight_decay=cfg["wd"],
            grad_clip=cfg["grad_clip"],
            start_lr=cfg["start_lr"],
            end_lr=cfg["end_lr"],
            lr_step=cfg["step"],
            lr_mode=cfg["lr_mode"] or "constant",
        )
        rates = step.Rates(cfg["start_lr"], cfg["gamma"], cfg["step"], settings.lr_mode == "step_lr_per_class")
        chance = augment.AsPublished(random.Random(cfg["py_seed"]), np.random.RandomState(cfg["np_seed"]))
        self.streamer = step.Streamer(
            settings,
            self.upper,
            step.make_optimizer(self.upper, settings),
            rates,
            self.memory,
            Recorder(chance),
            torch.device("cpu"),
            self.draw,
        )
        self.chance, self.draws = chance, []
        self.eligible: list[int] = []

    def draw(self, n: int) -> np.ndarray:
        positions = self.chance.draw(len(self.eligible), n)
        items = [self.eligible[p] for p in positions]
        self.draws.append(items)
        slot_of = {item: slot for slot, item in enumerate(held_items(self.memory))}
        return np.array([slot_of[item] for item in items])

    def play(self) -> None:
        z, streamer = self.z, self.streamer
        batches = torch.from_numpy(z["stream_feats"]).split(self.cfg["loader"])
        codes = torch.cat([self.codec.quantisers[step.FEATURES].encode_maps(batch) for batch in batches])
        new = self.codec.quantisers[step.FEATURES].decode_maps(codes)
        self.upper.train()
        losses_seen, rates_used = [], []
        evicted = iter(z["evicted"].tolist() if "evicted" in z else [])
        label_of = dict(
            zip(
                [*z["base_ids"].tolist(), *z["stream_ids"].tolist()],
                [*z["base_labels"].tolist(), *z["stream_labels"].tolist()],
                strict=True,
            )
        )
        for k, (item, label) in enumerate(zip(z["stream_ids"].tolist(), z["stream_labels"].tolist(), strict=True)):
            assert len(self.memory) == int(z["nelig"][k])
            losses_seen.append(float(streamer.step(new[k : k + 1], label)))
            rates_used.append(streamer.optimizer.param_groups[0]["lr"])
            self.eligible.append(item)
            if len(self.memory) == self.memory.capacity:
                victim = next(evicted)
                group = label if victim == item else label_of[victim]
                self.victims.choose(self.memory.policy, self.memory, victim, item, group, label)
                self.eligible.remove(victim)
            streamer.keep(codes[k : k + 1], label, item)
            if k == 0:
                self.compare("F1_", 1e-5)
        assert self.draws == parsed(z["draw_json"])
        assert losses_seen == pytest.approx(z["loss"].tolist(), abs=1e-4)
        assert rates_used == pytest.approx(z["lr"].tolist(), rel=1e-9)
        self.compare("Fend_", 1e-4)
        if "crop" in z:
            assert np.array_equal(np.concatenate(streamer.chance.windows), z["crop"])
        if "lam" in z:
            assert streamer.chance.shares == pytest.approx(z["lam"].tolist(), abs=1e-12)
        if "test_feats" in z:
            maps = torch.from_numpy(z["test_feats"])
            book = self.codec.quantisers[step.FEATURES]
            found = step.probabilities(self.upper, [book.decode_maps(book.encode_maps(maps))]).numpy()
            assert found == pytest.approx(z["prob"], abs=1e-4)
            assert evaluate.top_k(found, z["test_labels"]) == pytest.approx(z["acc"].tolist(), abs=1e-3)

    def compare(self, prefix: str, tolerance: float) -> None:
        state = self.upper.state_dict()
        expected = self.z.starting(prefix)
        assert expected
        for name, array in expected.items():
            assert state[name].numpy() == pytest.approx(array, abs=tolerance), name


class Recorder:
    """Passes decisions on and keeps them."""

    def __init__(self, chance: augment.AsPublished) -> None:
        self.chance, self.windows, self.shares = chance, [], []

    def crops(self, n: int, height: int, width: int) -> np.ndarray:
        self.windows.append(self.chance.crops(n, height, width))
        return self.windows[-1]

    def share(self, alpha: float) -> float:
        self.shares.append(self.chance.share(alpha))
        return self.shares[-1]


def upper_part(tensors: Mapping[str, np.ndarray]) -> nn.Module:
    """An upper part with exactly these tensors."""
    names = sorted({".".join(name.split(".")[1:3]) for name in tensors if ".layer" in name})
    steps: list[tuple[str, nn.Module]] = []
    for name in names:
        weight = tensors[f"model.{name}.conv1.weight"]
        stride = 2 if f"model.{name}.downsample.0.weight" in tensors else 1
        steps.append((name, _block(weight.shape[1], weight.shape[0], stride)))
    n_classes, width = tensors["model.fc.weight"].shape
    upper = Part(
        [*steps, ("avgpool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(width, n_classes))]
    )
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    counters = {name for name in upper.state_dict() if name.endswith("num_batches_tracked")}
    missing, unexpected = upper.load_state_dict(state, strict=False)
    assert set(missing) <= counters and not unexpected
    return upper


@kind
def lr_gamma(z: Arrays, entry: Mapping[str, Any]) -> None:
    for steps, start, end, gamma in z["table"].tolist():
        assert step.decay(int(steps), start, end) == pytest.approx(gamma, rel=1e-12)


# ---- augmentation and draws -------------------------------------------------------------------------


@kind
def crop_rrc(z: Arrays, entry: Mapping[str, Any]) -> None:
    maps, params, side = torch.from_numpy(z["x"]), z["params"], int(z["size"])
    chance = augment.AsPublished(random.Random(int(z["seed"])), np.random.RandomState(0), tuple(z["scale"].tolist()))
    assert np.array_equal(chance.crops(len(params), *maps.shape[2:]), params)
    assert augment.crop(maps, params[: len(maps)], (side, side)).numpy() == pytest.approx(z["y"], abs=1e-5)


@kind
def replay_draw(z: Arrays, entry: Mapping[str, Any]) -> None:
    for (seed, n, q), expected in zip(z["cases"].tolist(), parsed(z["out_json"]), strict=True):
        assert augment.distinct(np.random.RandomState(seed), n, q).tolist() == expected


@kind
def mixup(z: Arrays, entry: Mapping[str, Any]) -> None:
    chance = augment.AsPublished(random.Random(0), np.random.RandomState(int(z["seed"])))
    share = chance.share(float(z["alpha"]))
    assert share == pytest.approx(float(z["lam"]), abs=1e-12)
    x1, x2, y1, y2, scores = (torch.from_numpy(z[name]) for name in ("x1", "x2", "y1", "y2", "logits"))
    assert augment.mix(x1, x2, share).numpy() == pytest.approx(z["mixed"], abs=1e-5)
    loss = losses.mixed_cross_entropy(scores, y1, y2, share)
    assert loss.numpy() == pytest.approx(z["loss"], abs=1e-5)
    assert float(loss.mean()) == pytest.approx(float(z["mean"]), abs=1e-5)


# ---- labels and scores ------------------------------------------------------------------------------


@kind
def topk(z: Arrays, entry: Mapping[str, Any]) -> None:
    assert evaluate.top_k(z["prob"], z["y"]) == pytest.approx(z["topk"].tolist(), abs=1e-3)


@kind
def omega(z: Arrays, entry: Mapping[str, Any]) -> None:
    assert evaluate.omega(z["alpha"], z["offline"]) == pytest.approx(float(z["omega"]), abs=1e-9)


@kind
def label_files(z: Arrays, entry: Mapping[str, Any]) -> None:
    folders, order = parsed(z["folder_classes_json"]), parsed(z["order_json"])
    for side in ("train", "val"):
        counts = parsed(z[f"{side}_counts_json"])
        samples = np.repeat(np.arange(len(folders)), counts)
        ranks = folders_data.rank_labels(folders, samples, order)
        assert ranks.dtype == np.int64
        assert np.array_equal(ranks, z[side])
    found = [folders_data.rows_of_ranks(z["train"], a, b).tolist() for a, b in parsed(z["ranges_json"])]
    assert found == parsed(z["indices_json"])


# ---- questions --------------------------------------------------------------------------------------


@kind
def vqa_tokenize(z: Arrays, entry: Mapping[str, Any]) -> None:
    vocabulary = questions.Vocabulary()
    assert [vocabulary.learn(text) for text in parsed(z["sents_json"])] == parsed(z["ids_json"])
    assert vocabulary.words == parsed(z["vocab_json"])


@kind
def vqa_metric(z: Arrays, entry: Mapping[str, Any]) -> None:
    by_id = np.argsort(z["qid"])  # questions come in any order
    for name, n_types in evaluate.N_TYPES.items():
        found = evaluate.vqa_scores(z["pred"][by_id], z["aidx"][by_id], z["qtypeidx"][by_id], n_types)
        assert [found["mean_per_type"], found["overall"]] == pytest.approx(z[name].tolist(), abs=1e-9)


@kind
def vqa_limited_buffer(z: Arrays, entry: Mapping[str, Any]) -> None:
    classes, size, q = parsed(z["seq_json"]), int(z["size"]), int(z["q"])
    policy = policies.build_largest_class(LargestClassSettings(newcomer_may_leave=False), size)
    fields = {step.ITEM: Field(shape=(), dtype="int64", kind="group")}
    memory = Memory(policy, RawCodec(fields), size, np.random.default_rng(0))
    rng = memory._place_rng = ChosenVictim()
    old = np.random.RandomState(int(z["seed"]))
    lists: dict[int, list[int]] = {}
    for item, group in enumerate(classes):
        if sum(map(len, lists.values())) >= size:
            largest = max(lists, key=lambda c: len(lists[c]))  # the first seen of equals
            victim = lists[largest].pop(int(augment.distinct(old, len(lists[largest]), 1)[0]))
            rng.choose_before(policy, memory, victim, largest)
        lists.setdefault(group, []).append(item)
        memory.add({step.ITEM: np.array([item])}, np.array([group]))
        assert sorted(held_items(memory)) == sorted(i for ids in lists.values() for i in ids)
        if item == len(classes) // 2:
            compare_lists(lists, parsed(z["mid_json"]))
    compare_lists(lists, parsed(z["final_json"]))
    flat = [item for ids in lists.values() for item in ids]
    for expected in parsed(z["draws_json"]):
        drawn = [flat[p] for p in augment.distinct(old, len(flat), q)]
        assert drawn == expected
        assert set(drawn) <= set(held_items(memory))


def compare_lists(lists: Mapping[int, list[int]], expected: Mapping[str, list[int]]) -> None:
    assert {str(group): ids for group, ids in lists.items() if ids} == {g: ids for g, ids in expected.items() if ids}


@kind
def vqa_stream(z: Arrays, entry: Mapping[str, Any]) -> None:
    order_kind = "iid" if str(z["order"]).strip('"') == "random" else "qtype"
    types, answers, lengths, qid = z["qtypeidx"], z["aidx"], z["qlen"], z["qid"]
    order, boundaries = questions.dataset_order(order_kind, types, answers, int(answers.max()) + 1)
    assert boundaries == parsed(z["boundaries_json"])
    assert qid[order].tolist() == parsed(z["dataset_order_json"])
    streamed = questions.streamed_order(order, lengths, int(said(entry["what"], r"loader batch (\d+)")))
    assert qid[streamed].tolist() == parsed(z["streamed_order_json"])
    old, r = np.random.RandomState(int(z["seed"])), int(z["r"])
    draws, batch_lengths, batch_answers = [], [], []
    for position in range(boundaries[0], len(order)):
        drawn = augment.distinct(old, position + 1, r)
        rows = vqa_train.merge_batch(streamed[position], order[drawn], lengths)
        draws.append(drawn.tolist())
        batch_lengths.append(lengths[rows].tolist())
        batch_answers.append(sorted(answers[rows].tolist()))
    assert draws == parsed(z["draws_json"])
    assert batch_lengths == parsed(z["batch_qlen_json"])
    assert batch_answers == [sorted(batch) for batch in parsed(z["batch_aidx_json"])]
    assert boundaries[1:] == parsed(z["evals_json"])


def network_case(name: str) -> Callable[..., None]:
    def check(z: Arrays, entry: Mapping[str, Any]) -> None:
        tolerance = 1e-3 if "1e-3" in entry["tolerance"] else 1e-4
        tensors = {key.removeprefix("w_"): torch.from_numpy(z[key]) for key in z if key.startswith("w_")}
        sizes = sizes_of(name, tensors, z)
        z.no_say(*({"hops"} if name != "updown" else ()))
        net = vqa.make(name, sizes)
        counters = {key for key in net.state_dict() if key.endswith("num_batches_tracked")}
        missing, unexpected = net.load_state_dict(tensors, strict=False)
        assert set(missing) <= counters and not unexpected
        net.eval()
        question, image, length = (torch.from_numpy(z[key]) for key in ("q", "v", "ql"))
        scores = net(question, image, length)
        assert scores.detach().numpy() == pytest.approx(z["out"], abs=tolerance)
        back = net(question.flip(0), image.flip(0), length.flip(0)).flip(0)
        assert back.detach().numpy() == pytest.approx(z["out"], abs=tolerance)  # any order of lengths will do
        optimizer = torch.optim.Adamax(net.parameters(), lr=2e-3)
        loss = functional.cross_entropy(scores, torch.from_numpy(z["y"]))
        assert loss.item() == pytest.approx(float(z["loss"]), abs=tolerance)
        loss.backward()
        optimizer.step()
        assert net(question, image, length).detach().numpy() == pytest.approx(z["out_after"], abs=tolerance)

    return check


def sizes_of(name: str, w: Mapping[str, torch.Tensor], z: Arrays) -> vqa.Sizes:
    """Widths as the tensors have them."""
    mac = name in ("smac", "mac")
    embedding = w["embedding.emb.weight" if mac else "ques_encoder.embedding.emb.weight"]
    sizes: dict[str, Any] = {
        "n_words": embedding.shape[0] - 1,
        "word_dim": embedding.shape[1],
        "region_dim": z["v"].shape[-1],
        "n_answers": z["out"].shape[1],
        "hops": int(z["hops"]),
    }
    if mac:
        sizes["dim"] = w["mac_unit.mem_0"].shape[1]
        sizes["n_steps"] = sum(
            key.startswith("mac_unit.control.pos_aware_layers") and key.endswith("weight") for key in w
        )
    else:
        sizes["lstm"] = w["ques_encoder.lstm.weight_hh_l0"].shape[1]
        doubled = 2 if name in ("updown", "ramen") else 1
        sizes["hidden"] = w["classifier.lin1.bias"].shape[0] // doubled
    if name == "updown":
        sizes["attention"] = w["attention.0.attnmap.weight"].shape[1]
        sizes["attention_kind"] = "old" if "attention.0.nlin.weight" in w else "new"
    if name == "ramen":
        sizes |= {
            "conv": w["mmc_net.conv.0.bias"].shape[0],
            "mlp": w["mmc_net.mmc_layers.0.bias"].shape[0],
            "gru": w["mmc_net.aggregator.rnn.weight_hh_l0"].shape[1],
        }
    return vqa.Sizes(**sizes)


for _name in vqa.NETWORKS:
    KINDS[f"vqa_{_name}"] = network_case(_name)
