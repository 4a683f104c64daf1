"""Every golden case, by kind. ``--golden-dir DIR`` points at another directory of the same form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import authors_reservoir
from .conftest import cut

PLUGIN = "clear"
OWN = Path(__file__).parent / "golden"


def golden_folder(config: pytest.Config) -> Path | None:
    given = config.getoption("--golden-dir")
    if given is None:
        return OWN
    for folder in (Path(given), Path(given) / PLUGIN):
        manifest = folder / "manifest.json"
        if manifest.is_file() and json.loads(manifest.read_text())["plugin"] == PLUGIN:
            return folder
    if (Path(given) / "manifest.json").is_file() or any(Path(given).glob("*/manifest.json")):
        return None
    raise pytest.UsageError(f"--golden-dir {given}: no manifest.json in it nor in {PLUGIN}/ below it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    folder = golden_folder(metafunc.config)
    cases = json.loads((folder / "manifest.json").read_text())["cases"] if folder else []
    if folder and not cases:
        raise pytest.UsageError(f"{folder}/manifest.json names no cases")
    metafunc.parametrize("case", [(folder, case) for case in cases], ids=[case["case"] for case in cases])


def test_reference(case: tuple[Path, dict[str, Any]]) -> None:
    folder, entry = case
    check = CHECKS.get(entry["kind"])
    assert check is not None, f"nobody knows how to check a case of kind {entry['kind']!r}"
    with np.load(folder / entry["file"], allow_pickle=False) as arrays:
        check({name: arrays[name] for name in arrays.files}, entry)


def test_every_kind_of_the_shipped_cases_is_known() -> None:
    kinds = {case["kind"] for case in json.loads((OWN / "manifest.json").read_text())["cases"]}
    assert kinds == set(CHECKS)


# ---- metadata ---------------------------------------------------------------------------------


def check_parse(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.curation import columns, metadata, source
    from cl_plugin_clear.curation import records as m

    n = len(g["dataset_line"])
    hashes = dict(zip(g["hash_id"].tolist(), g["hash_value"].tolist(), strict=True))
    for i in range(n):
        fields = m.split_record(str(g["dataset_line"][i]))
        assert fields == g["columns"][i].tolist()
        tag_id, tags = m.split_tags(str(g["auto_line"][i]))
        first, rest, _ = columns.pair_columns(str(g["lines_line"][i]).encode(), 1)
        number, line_id = first[0].as_py(), rest[0].as_py()
        assert tag_id == line_id == fields[0]
        assert number == g["line_num"][i]
        assert hashes[fields[0]] == g["hash_of_row"][i]
        assert f"{fields[0]}.{fields[21]}" == g["img_path"][i]
        at = slice(g["tag_offset"][i], g["tag_offset"][i + 1])
        assert list(tags) == g["tag_name"][at].tolist()
        np.testing.assert_allclose(list(tags.values()), g["tag_score"][at], rtol=0, atol=1e-12)
        taken = m.taken_seconds(fields[3])
        np.testing.assert_allclose(taken, g["taken_epoch"][i], rtol=0, atol=1e-6)

    # the columnar path over the same text, hash lines once aligned and once shuffled
    def text(name: str, rows: Any = slice(None)) -> bytes:
        return "".join(g[name][rows].tolist()).encode()

    lines = [f"{k}\t{v}\n" for k, v in hashes.items()]
    for order in (range(len(lines)), reversed(range(len(lines)))):
        block = source.Block(
            0,
            text("dataset_line"),
            text("auto_line"),
            text("lines_line"),
            "".join(lines[i] for i in order).encode(),
            None,
        )
        for valid, key in ((True, "keep_valid_date"), (False, "keep_no_date")):
            table = metadata.parse_block(
                block,
                rule=metadata.Filter(use_valid_date=valid),
                find_hash=lambda ids: [hashes.get(str(i)) for i in ids],
            )
            assert table.num_rows == n
            assert [s == "pending" for s in table["status"].to_pylist()] == g[key].tolist()
            for j, name in enumerate(m.COLUMNS):
                column = table[name.lower()].to_pylist()
                if name not in m.NUMBERS:
                    assert column == g["columns"][:, j].tolist()
                else:
                    assert column == [None if t == "" else float(t) for t in g["columns"][:, j].tolist()]
            assert table["hash_value"].to_pylist() == g["hash_of_row"].tolist()
            assert [str(v) for v in table["line_num"].to_pylist()] == g["line_num"].tolist()
            flat = [pair for row in table["auto_tag_scores"].to_pylist() for pair in row]
            assert [name for name, _ in flat] == g["tag_name"].tolist()
            np.testing.assert_allclose([score for _, score in flat], g["tag_score"], rtol=0, atol=1e-12)
            taken = (
                np.array([np.nan if v is None else v for v in table["taken"].cast("int64").to_pylist()], float) / 1e6
            )
            np.testing.assert_allclose(taken, g["taken_epoch"], rtol=0, atol=1e-6)


# ---- pictures and time ------------------------------------------------------------------------


def check_imgfilter(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.curation import images
    from cl_plugin_clear.curation.fetch import fetch_one

    for (width, height, n_bytes, edge, ratio, size), accept in zip(g["rows"], g["accept"], strict=True):
        limits = images.Limits(min_edge=int(edge), max_aspect_ratio=float(ratio), min_size=int(size))
        assert (images.judge(width, height, n_bytes, limits) == "ok") == accept
    calls = []

    def answer(url: str) -> bytes:
        calls.append(url)
        return b"this is no picture"

    found = fetch_one("x", "jpg", answer, images.Limits(), sleep=lambda seconds: None)
    assert len(calls) == int(g["bad_attempts"])
    assert (found.status == "ok") == bool(g["bad_accept"])


def _check_buckets(rule: Any, g: dict[str, np.ndarray]) -> None:
    from cl_plugin_clear.data.split import date_text

    order, bucket = cut(g["uploaded"], rule)
    assert order.tolist() == g["order"].tolist()
    assert np.bincount(bucket, minlength=rule.n_buckets).tolist() == g["counts"].tolist()
    for number in np.unique(bucket):
        stamps = g["uploaded"][order[bucket == number]]
        for name, pick in (("min_date", np.min), ("max_date", np.max)):
            if name in g:
                assert date_text(pick(stamps)) == str(g[name][number])


def check_split_equal(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.curation.buckets import Rule

    _check_buckets(Rule(n=len(g["counts"])), g)


def check_split_year(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.curation.buckets import Rule

    _check_buckets(Rule(by="year"), g)


def check_split_time(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.curation.buckets import Rule

    intervals = tuple(zip(g["interval_start"].tolist(), g["interval_end"].tolist(), strict=True))
    for name, compat in (("bucket_interval", False), ("bucket_original", True)):
        rule = Rule(by="time", intervals=intervals, compat_original=compat)
        found = np.full(len(g["uploaded"]), -1)
        order, bucket = cut(g["uploaded"], rule)
        found[order] = bucket
        assert found.tolist() == g[name].tolist()


def check_shards(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.data import split

    for n, most, n_shards, first, last in g["rows"]:
        sizes = split.shard_sizes(int(n), int(most))
        assert (len(sizes), sizes[0], sizes[-1]) == (n_shards, first, last)
        assert sizes.sum() == n


# ---- retrieval and building -------------------------------------------------------------------


def _shards(features: np.ndarray) -> list[np.ndarray]:
    cut = len(features) // 2
    return [part for part in (features[:cut], features[cut : cut + 1], features[cut + 1 :]) if len(part)]


def check_retrieval(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    import re

    from cl_plugin_clear.curation import retrieval as r

    if "query" in g:
        top, _ = r.search(g["query"], _shards(g["features"]), len(g["I"]), block_rows=77)
        np.testing.assert_allclose(top.scores[0], g["D"], atol=1e-5)
        assert set(top.rows[0].tolist()) == set(g["I"].tolist())
        moved = np.flatnonzero(top.rows[0] != g["I"])
        for place in moved:  # order may differ only where neighbouring scores are within 1e-6
            other = int(np.flatnonzero(g["I"] == top.rows[0][place])[0])
            assert abs(float(g["D"][other]) - float(g["D"][place])) < 1e-6
        return
    k = g["top_I"].shape[1]
    top, low = r.search(g["text"], _shards(g["features"]), k, bottom=True, block_rows=64)
    assert top.rows.tolist() == g["top_I"].tolist()
    assert low is not None and low.rows.tolist() == g["bottom_I"].tolist()
    np.testing.assert_allclose(top.scores, g["top_D"], atol=1e-5)
    np.testing.assert_allclose(low.scores, g["bottom_D"], atol=1e-5)

    text = entry["semantics"]
    size, pool = map(int, re.search(r"class size (\d+), pool (\d+)", text).groups())
    ratio = float(re.search(r"ratio ([\d.]+)", text)[1])
    n = len(g["text"])
    labels = [str(i) for i in range(n)]
    top, low = r.search(g["text"], _shards(g["features"]), pool, bottom=True)
    positives = r.assign(labels, top, size)
    bottoms = r.assign(labels, low, size, allow_short=True)
    overlapping = r.retrieve(labels, g["text"], _shards(g["features"]), class_size=size, pool=pool, allow_overlap=True)
    whole = r.retrieve(
        labels, g["text"], _shards(g["features"]), class_size=size, pool=pool, background=True, negative_ratio=ratio
    )
    for i, label in enumerate(labels):
        assert [row for row, _ in positives[label]] == g[f"pos_{i}"].tolist()
        np.testing.assert_allclose([score for _, score in positives[label]], g[f"posD_{i}"], atol=1e-5)
        assert [row for row, _ in overlapping[label]] == g[f"ovl_{i}"].tolist()
        assert [row for row, _ in bottoms[label]] == g[f"neg_{i}"].tolist()
        assert [row for row, _ in whole[label]] == g[f"comp_{i}"].tolist()
    assert [row for row, _ in whole[r.BACKGROUND]] == g["background"].tolist()
    np.testing.assert_allclose([score for _, score in whole[r.BACKGROUND]], g["background_D"], atol=1e-5)


def check_normalize(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.curation.retrieval import normalise

    found = normalise(g["raw"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, g["normalized"], atol=1e-6)


def check_build(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    import re

    from cl_plugin_clear.curation import retrieval as r
    from cl_plugin_clear.data.labels import class_names, list_bucket, map_labels
    from cl_plugin_clear.data.split import train_test

    text = entry["semantics"]
    size, pool = map(int, re.search(r"class size (\d+), pool (\d+)", text).groups())
    ratio = float(re.search(r"pool \d+, ratio ([\d.]+)", text)[1])
    test_ratio = float(re.search(r"for ratio ([\d.]+)", text)[1])
    background = "background on" in text
    label_map = dict(zip(g["prompts"].tolist(), g["labels"].tolist(), strict=True))
    labels = map_labels(g["prompts"].tolist(), label_map)
    assert labels == g["labels"].tolist()
    names = class_names(labels + [r.BACKGROUND] * background)
    assert names == g["class_names"].tolist()
    buckets = sorted(int(name.split("_")[1]) for name in g if re.fullmatch(r"all_\d+", name))
    assert buckets
    for b in buckets:
        ids = g[f"ids_{b}"]
        chosen = r.retrieve(
            labels,
            g["text"],
            _shards(g[f"features_{b}"]),
            class_size=size,
            pool=pool,
            background=background,
            negative_ratio=ratio,
            allow_overlap="overlap removed" not in text,
        )
        members = {label: [(str(ids[row]), "jpg") for row, _ in hits] for label, hits in chosen.items()}
        listed = list_bucket(str(b), members, names)
        assert [f"{line.path} {line.label}" for line in listed] == g[f"all_{b}"].tolist()
        assert [int(line.id) for line in listed] == g[f"feat_id_{b}"].tolist()
        assert [line.label for line in listed] == g[f"feat_y_{b}"].tolist()
        splits = [name for name in g if re.fullmatch(rf"train_{b}_s\d+", name)]
        assert splits
        for name in splits:
            seed = int(name.rsplit("_s", 1)[1])
            train, test = train_test(len(listed), test_ratio, seed)
            assert train == g[f"train_{b}_s{seed}"].tolist()
            assert test == g[f"test_{b}_s{seed}"].tolist()


def check_splitsizes(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.data.split import train_test

    sizes = set()
    for n, ratio, seed, n_train, n_test in g["rows"]:
        train, test = train_test(int(n), float(ratio), int(seed))
        assert (len(train), len(test)) == (n_train, n_test)
        sizes.add(int(n))
    for name in g:
        if name.startswith("perm_"):
            seed = int(name.split("_")[2])
            assert len(g[name]) in sizes
            train, test = train_test(len(g[name]), 0.3, seed)
            assert train + test == g[name].tolist()


# ---- benchmark --------------------------------------------------------------------------------


def check_metrics(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.evaluate import metrics as e

    matrix = g["matrix"]

    def close(scores: dict[str, Any], names: list[str], expected: np.ndarray) -> None:
        np.testing.assert_allclose([scores[name] for name in names], expected, rtol=0, atol=1e-9)

    inside, following, accuracy, backward, forward = e.NAMES
    close(e.clear_metrics(matrix), list(e.NAMES), g["standard"])
    notebook = [following, inside, accuracy, backward, forward]
    close(e.clear_metrics(matrix, compat_next=True), notebook, g["notebook"])
    close(e.gem_style(matrix), [accuracy, backward, forward], g["gem_style"])
    close(e.column_averaged(matrix), [inside, backward, forward], g["column_averaged"])
    close(e.nap(matrix, compat_next=True), notebook, g["nap"])


def check_reservoir(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    import random

    from cl_kernel.library.memories.policies import BiasedReservoir

    dynamic = entry["kind"].endswith("dynamic")
    n, k = g["buffers"].shape
    alpha = float(g["alpha"])
    probabilities = [
        authors_reservoir.accept_probability(i + 1, alpha, k, k * (i + 1), dynamic=dynamic) for i in range(n)
    ]
    np.testing.assert_allclose(probabilities, g["accept_probability"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(authors_reservoir.inclusion(probabilities), g["inclusion_formula"], rtol=0, atol=1e-12)
    buckets = [[1000 * (b + 1) + i for i in range(k)] for b in range(n)]
    own = list(authors_reservoir.bucket_buffers(buckets, alpha, dynamic=dynamic, rng=random.Random(int(g["seed"]))))
    assert own == g["buffers"].tolist()

    # the policy the benchmark runs with: the kernel's, bucket by bucket
    runs, counts, old, places = 2000, np.zeros((n, n)), np.zeros((n, n)), random.Random(7)
    rng = np.random.default_rng(11)
    for _ in range(runs):
        policy = BiasedReservoir(k, alpha=alpha, dynamic=dynamic, by_bucket=True)
        slots = np.full(k, -1)
        for b in range(n):
            at = policy.place(np.zeros(k, np.int64), rng)
            slots[at[at >= 0]] = b
            counts[b] += np.bincount(slots[slots >= 0], minlength=n) / k
    for _ in range(1000):
        for b, buffer in enumerate(authors_reservoir.bucket_buffers(buckets, alpha, dynamic=dynamic, rng=places)):
            old[b] += np.bincount([item // 1000 - 1 for item in buffer], minlength=n) / k
    np.testing.assert_allclose(counts / runs, g["inclusion_measured"], rtol=0, atol=0.02)
    np.testing.assert_allclose(old / 1000, g["inclusion_measured"], rtol=0, atol=0.02)


def check_two_buffer(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    import random

    n = sum(name.startswith("buffer_") for name in g)
    k = len(g["buffer_1"])
    buckets = [[1000 * (b + 1) + i for i in range(k)] for b in range(n)]
    found = authors_reservoir.two_buffers(
        buckets, float(g["alpha"]), dynamic="dynamic" in entry["what"], rng=random.Random(int(g["seed"])), compat=True
    )
    for number, buffer in enumerate(found, start=1):
        assert buffer == g[f"buffer_{number}"].tolist()


def check_moco(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    import re

    import torch
    from torch import nn

    from cl_plugin_clear.method.moco import step
    from cl_plugin_clear.network.moco import MoCo

    torch.set_num_threads(1)

    def tensors(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): torch.from_numpy(g[name].copy()) for name in g if name.startswith(prefix)}

    init = tensors("init.")
    text = entry["semantics"]
    mlp = "encoder_q.fc.0.weight" in init
    conv = init["encoder_q.conv.weight"]
    fc = init["encoder_q.fc.2.weight" if mlp else "encoder_q.fc.weight"]

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(conv.shape[1], conv.shape[0], conv.shape[2], padding=conv.shape[2] // 2, bias=False)
            self.bn = nn.BatchNorm2d(conv.shape[0])
            self.fc = nn.Linear(fc.shape[1], fc.shape[0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))

    def number(pattern: str) -> float:
        return float(re.search(pattern + r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)[1])

    moco = MoCo(
        Encoder(),
        Encoder(),
        dim=fc.shape[0],
        queue=init["queue"].shape[1],
        mlp=mlp,
        momentum=number(r"[ ,]m="),
        temperature=number(r"[ ,]T="),
    )
    moco.load_state_dict(init)
    optimizer = torch.optim.SGD(
        [p for p in moco.parameters() if p.requires_grad],
        number("lr "),
        momentum=number("momentum "),
        weight_decay=number("decay "),
    )
    for s in range(len(g["xq"])):
        loss, logits = step(moco, moco, optimizer, torch.from_numpy(g["xq"][s]), torch.from_numpy(g["xk"][s]))
        np.testing.assert_allclose(logits.numpy(), g["logits"][s], rtol=0, atol=2e-5)
        np.testing.assert_allclose(float(loss), g["loss"][s], rtol=0, atol=2e-5)
        np.testing.assert_allclose(moco.queue.numpy(), g["queue"][s], rtol=0, atol=2e-5)
        assert int(moco.queue_ptr) == g["ptr"][s]
        for prefix in {"step0."} if s == 0 else {"final."} if s == len(g["xq"]) - 1 else ():
            own = moco.state_dict()
            expected = tensors(prefix)
            assert set(own) == set(expected)
            for name, value in expected.items():
                np.testing.assert_allclose(own[name].numpy(), value.numpy(), rtol=0, atol=5e-5, err_msg=name)


def check_adapt(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.weights.checkpoints import adapt

    found = adapt({key: i for i, key in enumerate(g["input_keys"].tolist())})
    assert set(found) == set(g["output_keys"].tolist())


def check_lr(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    import re

    from cl_plugin_clear.method.moco import learning_rate

    text = entry["semantics"]
    lr = float(re.search(r"lr0=([\d.]+)", text)[1])
    epochs = int(re.search(r"(\d+) epochs", text)[1])
    steps = tuple(int(v) for v in re.search(r"steps ([\d,]+)", text)[1].split(","))
    for cosine, epoch, expected in g["rows"]:
        assert abs(learning_rate(int(epoch), lr, epochs, cosine=bool(cosine), steps=steps) - expected) <= 1e-12


# ---- human verification -----------------------------------------------------------------------


def check_feedback(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    from cl_plugin_clear.curation import verify

    entries = [
        (b, label, name, [a for a in answers.split("|") if a]) for b, label, name, answers in g["entries"].tolist()
    ]
    user_labels = dict(zip(g["map_from"].tolist(), g["map_to"].tolist(), strict=True))
    found = verify.kept(entries, user_labels)
    assert {tuple(row) for row in found} == {tuple(row) for row in g["kept"].tolist()}
    assert sorted({label for _, label, _, _ in entries}) == g["sorted_labels"].tolist()


def check_mturk(g: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    import re

    from cl_plugin_clear.curation import verify

    renamed = dict(re.findall(r"(\w+)->(\w+)", entry["semantics"]))
    images = [
        verify.Voted(
            name,
            bucket,
            query,
            tuple(tuple(renamed.get(v, v) for v in votes.split("|") if v) for votes in g["answers"][i].tolist()),
        )
        for i, (name, bucket, query) in enumerate(g["images"].tolist())
    ]
    found = verify.reports(images)
    for name in verify.REPORTS:
        counts = [suspect.disagree_count for suspect in found[name]]
        assert counts == g[f"{name}_disagree"].tolist(), name
        mine = sorted(zip(counts, [suspect.image.id for suspect in found[name]], strict=True))
        theirs = sorted(zip(g[f"{name}_disagree"].tolist(), g[name].tolist(), strict=True))
        assert mine == theirs, name
    flagged = verify.flagged([(row[0], g["yes"][i].tolist()) for i, row in enumerate(g["images"].tolist())])
    assert [name for name, _ in flagged] == g["flagged"].tolist()


CHECKS = {
    "parse": check_parse,
    "imgfilter": check_imgfilter,
    "split_equal": check_split_equal,
    "split_year": check_split_year,
    "split_time": check_split_time,
    "shards": check_shards,
    "retrieval": check_retrieval,
    "normalize": check_normalize,
    "build": check_build,
    "splitsizes": check_splitsizes,
    "metrics": check_metrics,
    "reservoir_fixed": check_reservoir,
    "reservoir_dynamic": check_reservoir,
    "reservoir_two_buffer": check_two_buffer,
    "moco": check_moco,
    "adapt": check_adapt,
    "lr": check_lr,
    "feedback": check_feedback,
    "mturk": check_mturk,
}
