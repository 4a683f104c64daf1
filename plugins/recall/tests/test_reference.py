"""Every case of the reference vectors, by kind; a kind that is not known here fails."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cl_plugin_recall.data import files, images, records
from cl_plugin_recall.evaluate import palette, report
from cl_plugin_recall.evaluate import scores as segmentation
from cl_plugin_recall.experiments import TESTS
from cl_plugin_recall.gin_bindings import as_settings, read_bindings
from cl_plugin_recall.method import interleave, labels, losses
from cl_plugin_recall.method.phases import PhasePlan, TrainStep, first_plan, helper_plan, incremental_plan
from cl_plugin_recall.network import hub, inputs, layers, resnet
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.settings import Recall
from cl_plugin_recall.weights import checkpoints
from cl_plugin_recall.weights.names import Names

Case = Mapping[str, Any]
OWN = Path(__file__).parent / "golden"


def folder_of(option: Path | None) -> Path | None:
    if option is None:
        return OWN
    for place in (option, option / "recall"):
        if (place / "manifest.json").is_file():
            return place
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = folder_of(metafunc.config.getoption("--golden-dir"))
    manifest = json.loads((folder / "manifest.json").read_text()) if folder else {}
    foreign = manifest.get("plugin") not in ("recall",)
    if "case" in metafunc.fixturenames:
        cases = [] if foreign else manifest["cases"]
        metafunc.parametrize(
            ("case", "folder"),
            [(case, folder) for case in cases],
            ids=[f"{case['kind']}-{case['case']}" for case in cases],
        )


def test_the_golden_folder_has_cases(request: pytest.FixtureRequest) -> None:
    option = request.config.getoption("--golden-dir")
    folder = folder_of(option)
    if folder is None:  # a folder of several plugins without this one, or nothing at all
        others = list(option.glob("*/manifest.json"))
        assert others, f"{option} holds no manifest.json"
        return
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["cases"], "manifest without cases"


def test_reference(case: Case, folder: Path) -> None:
    check = CHECKS.get(case["kind"])
    assert check is not None, f"no check for kind {case['kind']!r}"
    check(case, folder)


def arrays(case: Case, folder: Path) -> dict[str, np.ndarray]:
    name = next(part.strip() for part in case["file"].split(",") if part.strip().endswith(".npz"))
    with np.load(folder / name) as data:
        return {key: data[key] for key in data.files}


def numbered(data: Mapping[str, np.ndarray], stem: str) -> list[int]:
    return sorted(int(m.group(1)) for key in data if (m := re.fullmatch(rf"{re.escape(stem)}_(\d+)", key)))


# ---- weights by formula ---------------------------------------------------------------------------
def formula(name: str, shape: tuple[int, ...], base: int) -> np.ndarray:
    r = np.random.RandomState((zlib.crc32(name.encode()) ^ base) & 0x7FFFFFFF)
    stem = name.startswith("resnet_v1_101/conv1/BatchNorm")
    if name.endswith("/weights"):
        g = 1 if name.startswith("decoder") else 2
        value = r.standard_normal(shape) * np.sqrt(g / (shape[0] * shape[1] * shape[2]))
    elif name.endswith("/biases"):
        value = 0.1 * r.standard_normal(shape)
    elif name.endswith("/gamma"):
        value = 0.3 + 0.05 * r.standard_normal(shape) if "/conv3/" in name else 1 + 0.1 * r.standard_normal(shape)
    elif name.endswith("/beta"):
        value = 0.1 * r.standard_normal(shape)
    elif name.endswith("/moving_mean"):
        value = (10 if stem else 0.1) * r.standard_normal(shape)
    else:
        value = (8000 if stem else 1) * (1 + 0.5 * r.random_sample(shape))
    return value.astype(np.float32)


def filled(part: layers.Part, base: int) -> Any:
    part.assign({name: formula(name, tuple(v.shape), base) for name, v in part.named.items()})
    return part


def network(base: int, n_outputs: int, divisor: int = 16) -> tuple[resnet.ResNet, Decoder]:
    rng = np.random.default_rng(0)
    encoder = filled(resnet.ResNet(resnet.ResNetSpec(divisor=divisor), rng), base)
    return encoder, filled(Decoder(encoder.depth, n_outputs, rng), base)


def stated(case: Case, pattern: str) -> str:
    found = re.search(pattern, case["semantics"])
    assert found, f"semantics do not state {pattern}"
    return found.group(1)


# ---- arithmetic -----------------------------------------------------------------------------------
def check_learning_rate(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    for entry in case["cases"]:
        phase, n, per_class = entry["phase"], entry["foreground_classes"], entry["decay_steps_per_class"]
        key = {
            "step0": "decay_steps_per_class",
            "inc": "decay_steps_per_class_incremental",
            "helper": "decay_steps_per_class_helper",
        }[phase]
        settings = Recall(**{key: per_class, **entry["overrides"]})
        plan = {"step0": first_plan, "inc": incremental_plan, "helper": helper_plan}[phase](settings, n)
        got = [plan.rate(int(t)) for t in data[f"t_{entry['i']}"]]
        np.testing.assert_allclose(got, data[f"lr_{entry['i']}"], rtol=1e-5)


def check_loss(case: Case, folder: Path) -> None:
    data, meta = arrays(case, folder), json.loads(case["semantics"])
    logits, label = data["logits"], data["label"][..., 0]
    if meta["phase"] == "helper":
        table = losses.helper_table(meta["H"])
        local = table[label]
        np.testing.assert_array_equal(local[..., None], data["local_label"])
        counted, label, back = (losses.class_table(range(len(meta["H"]) + 1)), local, losses.back_table(meta["H"]))
    else:
        known = range(meta["n"] + 1) if meta["phase"] == "step0" else [*range(meta["old"] + 1), *meta["new"]]
        counted, back = losses.class_table(known), np.arange(256)
    x = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = losses.cross_entropy(x, label, counted)
    np.testing.assert_allclose(loss.numpy(), data["loss"], rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, x).numpy(), data["grad_logits"], rtol=1e-5, atol=1e-7)
    predicted = labels.argmax(tf.constant(logits)).numpy()
    np.testing.assert_array_equal(back[predicted], data["argmax"])
    if "confusion" in data:
        got = segmentation.confusion(label, predicted, logits.shape[-1], counted)
        np.testing.assert_array_equal(got, data["confusion"])


def check_inpaint(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    for i in numbered(data, "new_label"):
        mixed = labels.inpaint(data[f"new_label_{i}"], data[f"prediction_{i}"])
        assert mixed.dtype == np.uint8
        np.testing.assert_array_equal(mixed, data[f"mixed_{i}"])


def check_metrics(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    for entry in case["cases"]:
        got = segmentation.scores(data[f"cm_{entry['i']}"], entry["classes"], entry["old"], entry["new"])
        for name, key in (("iou", "class_iou"), ("prec", "precision")):
            values = [np.nan if value is None else value for value in got[key]]
            np.testing.assert_allclose(values, data[f"{name}_{entry['i']}"], rtol=1e-12)
        scalars = [
            got[key]
            for key in (
                "miou",
                "mean_precision",
                "pixel_accuracy",
                "miou_old",
                "miou_new",
                "precision_old",
                "precision_new",
            )
        ]
        np.testing.assert_allclose(scalars, data[f"scalars_{entry['i']}"], rtol=1e-12)


def check_augment(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    for entry in case["cases"]:
        i = entry["i"]
        image = images.subtract_mean(tf.constant(data[f"image_{i}"]))
        got, label = images.augment(
            image,
            tf.constant(data[f"label_{i}"]),
            scale=tf.constant(entry["scale"], tf.float32),
            flip=tf.constant(entry["flip_uniform"], tf.float32),
            offset=tf.constant([entry["crop_y"], entry["crop_x"]]),
            size=entry["size"],
        )
        assert (entry["flip_uniform"] < 0.5) == entry["flipped"]
        np.testing.assert_allclose(got.numpy(), data[f"out_image_{i}"], atol=1e-3)
        np.testing.assert_array_equal(label.numpy(), data[f"out_label_{i}"])


def check_upsampling(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    for i in numbered(data, "x"):
        want = data[f"y_{i}"]
        got = layers.resize_logits(tf.constant(data[f"x_{i}"]), want.shape[1:3])
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


def check_layers(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    for i in sorted({int(key.split(":")[0]) for key in data}):
        v = {key.split(":", 1)[1]: value for key, value in data.items() if key.startswith(f"{i}:")}
        x = tf.constant(v["x"])
        branches = range(1, 5)
        got = {
            "out_conv7s2": layers.conv(x, v["c7/weights"], stride=2),
            "out_pool3s2": layers.max_pool(x),
            "out_conv1s2": layers.conv(x, v["c1/weights"], stride=2),
            "out_dil2": layers.conv(x, v["d2/weights"], dilation=2) + v["d2/biases"],
            "out_dil4": layers.conv(x, v["d4/weights"], dilation=4),
            "out_bn_relu": tf.nn.relu(
                layers.batch_norm(
                    x, *(v[f"bn/BatchNorm/{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_variance"))
                )
            ),
            "out_aspp": layers.aspp(
                x,
                [v[f"aspp/conv{k}/weights"] for k in branches],
                [v[f"aspp/conv{k}/biases"] for k in branches],
                (6, 12, 18, 24),
            ),
        }
        outputs = {key for key in v if key.startswith("out_")}
        assert outputs == set(got), "an output without a check"
        for key in outputs:
            np.testing.assert_allclose(got[key].numpy(), v[key], atol=2e-5, err_msg=key)


# ---- networks -------------------------------------------------------------------------------------
def close(got: np.ndarray, want: np.ndarray, name: str = "") -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max(), err_msg=name)


def check_net_small(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    encoder, decoder = network(case["base"], int(stated(case, r"(\d+) outputs")))
    for i in numbered(data, "x"):
        x = tf.constant(data[f"x_{i}"])
        ends = encoder.endpoints(x)
        for name, value in ends.items():
            close(value.numpy(), data[f"{name}_{i}"], name)
        got = layers.resize_logits(decoder(ends["block4"]), tf.shape(x)[1:3]).numpy()
        close(got, data[f"logits_{i}"], "logits")
        assert np.mean(got.argmax(-1) == data[f"logits_{i}"].argmax(-1)) >= 0.999


def check_net_full(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    encoder, decoder = network(case["base"], int(stated(case, r"(\d+) outputs")), divisor=1)
    x = tf.constant(data["x"])
    features = encoder(x).numpy()
    got = layers.resize_logits(decoder(tf.constant(features)), x.shape[1:3]).numpy()
    close(features[..., :: features.shape[-1] // data["features_sub"].shape[-1]], data["features_sub"])
    np.testing.assert_allclose(
        [features.mean(), features.std()], [data["features_mean"], data["features_std"]], rtol=1e-4
    )
    close(got, data["logits"])
    assert np.mean(got.argmax(-1) == data["logits"].argmax(-1)) >= 0.999


def check_train(case: Case, folder: Path) -> None:
    data, mode = arrays(case, folder), case["mode"]
    settings = Recall(
        training_steps_per_class=1000,
        decay_steps_per_class=1000,
        training_steps_per_class_helper=1000,
        decay_steps_per_class_helper=1000,
        training_steps_per_class_incremental=1000,
        decay_steps_per_class_incremental=1000,
    )
    table = np.arange(256, dtype=np.uint8)
    plan: PhasePlan
    if mode == "step0":
        n = int(stated(case, r"classes 0\.\.(\d+)"))
        plan, counted = first_plan(settings, n), losses.class_table(range(n + 1))
    elif mode == "inc":
        old, new = int(stated(case, r"old 0\.\.(\d+)")), json.loads(stated(case, r"new (\[[\d, ]+\])"))
        plan, counted = incremental_plan(settings, len(new)), losses.class_table([*range(old + 1), *new])
    else:
        classes = json.loads(stated(case, r"helper (\[[\d, ]+\])"))
        plan, counted = helper_plan(settings, len(classes)), losses.class_table(range(len(classes) + 1))
        table = losses.helper_table(classes)
    outputs = data["delta:decoder/aspp/conv1/biases"].shape[0]
    encoder, decoder = network(case["base"], outputs)
    before = encoder.values() | decoder.values()
    step = TrainStep(encoder, decoder, counted, settings, whole=mode == "step0")
    for t in numbered(data, "x"):
        label = table[data[f"y_{t}"][..., 0]]
        rate = plan.rate(t)
        _, l2_encoder, l2_decoder, _ = want = data[f"loss_{t}"]
        np.testing.assert_allclose(
            losses.weight_decay(encoder.kernels, settings.l2_decay).numpy(), l2_encoder, rtol=1e-5
        )
        np.testing.assert_allclose(
            losses.weight_decay(decoder.kernels, settings.l2_decay).numpy(), l2_decoder, rtol=1e-5
        )
        loss = step(tf.constant(data[f"x_{t}"]), tf.constant(label), tf.constant(rate, tf.float32))
        np.testing.assert_allclose([loss.numpy(), rate], [want[0], want[3]], rtol=1e-5)
    after = encoder.values() | decoder.values()
    for key, want in data.items():
        if key.startswith("delta:"):
            name = key.removeprefix("delta:")
            delta = after[name] - before[name]
            if not want.any():
                assert not delta.any(), name
            np.testing.assert_allclose(delta, want, atol=2e-3 * max(np.abs(want).max(), 1e-30), rtol=0, err_msg=name)
    assert sum(bool((after[name] != before[name]).any()) for name in after) == data["n_changed_tensors"]


# ---- files ----------------------------------------------------------------------------------------
def check_jpeg(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    for i in numbered(data, "jpeg"):
        np.testing.assert_array_equal(
            images.decode_jpeg(tf.constant(data[f"jpeg_{i}"].tobytes())).numpy(), data[f"decoded_{i}"]
        )


def check_tfrecord(case: Case, folder: Path, tmp: Path | None = None) -> None:
    import tempfile

    data = arrays(case, folder)
    with tempfile.TemporaryDirectory() as name:
        path, bare = Path(name) / "a.tfrecord", Path(name) / "b.tfrecord"
        path.write_bytes(data["with_labels"].tobytes())
        bare.write_bytes(data["images_only"].tobytes())
        samples = records.RecordSamples((path,), files.record_fields(21))
        jpeg, png = samples.encoded(0)
        assert (jpeg, png) == (data["jpeg"].tobytes(), data["png"].tobytes())
        np.testing.assert_array_equal(samples.take(np.array([0]), ["mask"])["mask"][0], data["label"])
        assert records.RecordSamples((bare,), files.record_fields(21)).encoded(0) == (data["jpeg"].tobytes(), b"")
        element = next(iter(records.read_dataset([path], "validation+").batch(1)))
        np.testing.assert_allclose(element["input"].numpy(), data["val_input"], atol=1e-4)
        np.testing.assert_array_equal(element["label"].numpy(), data["val_label"])
        np.testing.assert_array_equal(element["rgb_input"].numpy(), data["val_rgb"])
        again = Path(name) / "c.tfrecord"
        records.write_records(again, [(data["jpeg"].tobytes(), data["png"].tobytes())])
        assert records.RecordSamples((again,), files.record_fields(21)).encoded(0) == (jpeg, png)


def check_label_pipeline(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    base = case["base"]
    encoder, decoder = network(base, int(stated(case, r"\((\d+) outputs\)")))
    classes = json.loads(stated(case, r"helper (\[[\d, ]+\])"))
    helper = filled(Decoder(encoder.depth, int(stated(case, r"with (\d+) outputs")), np.random.default_rng(0)), base)
    jpeg = data["jpeg"].tobytes()
    predict = labels.predictor(encoder, decoder, inputs.LEGACY_INPUT)
    mixed = labels.inpaint(data["label"], predict([jpeg])[0])
    raw = labels.predictor(encoder, decoder, None)([jpeg])[0]
    helped = losses.back_table(classes)[labels.predictor(encoder, helper, None)([jpeg])[0]]
    for got, name in ((mixed, "mixed"), (raw, "pseudo_no_helper_raw"), (helped, "pseudo_helper_raw")):
        assert np.mean(got == data[name]) >= 0.995, name


def check_checkpoint(case: Case, folder: Path) -> None:
    prefix = folder / case["file"].split(",")[0].strip().removesuffix(".index")
    values = checkpoints.load(prefix)
    shape = tuple(json.loads(stated(case, r"weights (\[[\d, ]+\])")))
    decoder = Decoder(shape[2], shape[3], np.random.default_rng(0))
    assert set(values) == set(decoder.named)
    base = case.get("base") or int(stated(case, r"base=(\d+)"))
    for name, value in values.items():
        np.testing.assert_allclose(value, formula(name, value.shape, base), atol=1e-6)
    decoder.assign(checkpoints.load(prefix, {n: tuple(v.shape) for n, v in decoder.named.items()}))


def check_interleave(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    for entry in case["cases"]:
        n_new, n_old = entry["n_new"], entry["n_old"]
        stream = interleave.Interleaved(
            new=interleave.in_order(n_new),
            old=interleave.in_order(n_old),
            n_new=n_new,
            n_old=n_old,
            r_new=entry["r_new"],
            r_old=entry["r_old"],
            batch_size=entry["batch_size"],
        )
        batches = [[row + 1000 * is_old for is_old, row in stream.batch(t)] for t in range(entry["batches"])]
        np.testing.assert_array_equal([len(batch) for batch in batches], data[f"sizes_{entry['i']}"])
        np.testing.assert_array_equal(np.concatenate(batches), data[f"ids_{entry['i']}"])


def check_palette(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    for name in ("label", "pred"):
        got = palette.colourise(data[name])
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, data[f"{name}_rgb"])


def check_gan(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    got = images.generated_to_uint8(data["x"])
    assert got.dtype == data["y"].dtype
    np.testing.assert_array_equal(got, data["y"])


def check_hub(case: Case, folder: Path) -> None:
    data = arrays(case, folder)
    module = hub.load_generator(folder / case["file"].split(" ")[0].rstrip("/"))
    got = module.images(data["z"], data["class_ids"], float(data["truncation"]))
    np.testing.assert_allclose(got, data["out"], atol=1e-5)


# ---- names ----------------------------------------------------------------------------------------
def names_of(entry: Case, base: str = ".") -> Names:
    bindings = read_bindings(entry["config"])
    dotted = as_settings(bindings)
    test = next(t for t in TESTS if t.name == entry["test"])
    index = tuple(
        dotted[f"learner.parameters_{part}_index"] for part in ("common", "first_step", "helper", "incremental")
    )
    return Names(
        test_name=dotted["learner.test_name"],
        test=test.index,
        sizes=test.sizes,
        index=index,
        protocols=(dotted["dataset.protocol_first"], dotted["dataset.protocol_helpers"], dotted["dataset.protocol"]),
        source=entry["source"],
        one_class=entry.get("one_class", False),
        mix=dotted["learner.mix_labels"],
        base=entry.get("base", base),
    )


def check_manager(case: Case, folder: Path) -> None:
    for entry in json.loads((folder / case["file"]).read_text()):
        names = names_of(entry)
        n_steps = len(names.sizes)
        plain, helped = names.replay_classes
        joint = n_steps == 1
        got: dict[str, Any] = {
            "structure": list(names.sizes),
            "steps": names.steps,
            "test_index": names.test,
            "encoder": names.encoder,
            "pretrained": names.pretrained,
            "decoders": [names.decoder(step) for step in range(n_steps)],
            "helpers": names.helpers,
            "helper_size": names.helper_size,
            "helpers_ckpt": [names.helper(h) for h in names.helpers],
            "helper_train": [names.helper_train(h) for h in names.helpers],
            "mix": names.mix,
            "mixed": [names.mixed(step) for step in range(n_steps)],
            "train": [names.train(step) for step in range(n_steps)],
            "n_val_files": [names.n_seen(step) for step in range(n_steps)],
            "old": {str(step): names.old(step) for step in range(1, n_steps)},
            "new": {str(step): names.steps[step] for step in range(1, n_steps)},
            "n_replay_files_per_step": {str(step): names.n_seen(step - 1) for step in range(1, n_steps)},
            "replay_no_helper": plain,
            "replay_helper": helped,
            "replay_out": [names.labelled(c) for c in [*plain, *helped]],
            "replay_src_no_helper": None if joint else [names.replay_images(c) for c in plain],
            "replay_src_helper": None if joint else [[names.replay_images(c) for c in h] for h in names.helpers],
            "report": names.report,
        }
        for key, want in entry["result"].items():
            assert key in got, f"no value for {key}"
            assert got[key] == want, (entry["config"], entry["test"], key)


def check_reuse(case: Case, folder: Path) -> None:
    for entry in json.loads((folder / case["file"]).read_text()):
        missing = {str(Path(path)) for path in entry["missing"]}
        got = names_of(entry).missing(lambda path, missing=missing: str(Path(path)) not in missing)
        for key in (
            "encoder_ok",
            "decoders_ok",
            "helpers_ok",
            "labels_no_helper_ok",
            "labels_helper_ok",
            "mixed_exists",
            "first_step_to_train",
        ):
            assert getattr(got, key) == entry[key], (entry["test"], key)


def check_summary(case: Case, folder: Path) -> None:
    import tempfile

    for entry in json.loads((folder / case["file"]).read_text()):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / entry["file"]
            path.write_text(
                "".join(
                    report.block(
                        step,
                        {
                            "class_iou": iou,
                            "miou": 0.0,
                            "mean_precision": 0.0,
                            "pixel_accuracy": 0.0,
                            "precision": [0.0] * len(iou),
                            "miou_old": 0.0,
                            "miou_new": 0.0,
                            "precision_old": 0.0,
                            "precision_new": 0.0,
                        },
                        loss=0.0,
                    )
                    for step, iou in enumerate(entry["class_iou_blocks"])
                )
            )
            assert report.summarise_report(path, shown_as=f"outputs/{entry['file']}") == entry["summary"]


CHECKS: dict[str, Callable[[Case, Path], None]] = {
    "learning_rate": check_learning_rate,
    "loss_step0": check_loss,
    "loss_incremental": check_loss,
    "loss_helper": check_loss,
    "inpaint_rule": check_inpaint,
    "metrics": check_metrics,
    "augment": check_augment,
    "logit_upsampling": check_upsampling,
    "layers": check_layers,
    "net_small": check_net_small,
    "net_full": check_net_full,
    "train_step0": check_train,
    "train_incremental": check_train,
    "train_helper": check_train,
    "jpeg_decode": check_jpeg,
    "tfrecord": check_tfrecord,
    "label_pipeline": check_label_pipeline,
    "tf1_checkpoint": check_checkpoint,
    "interleave": check_interleave,
    "palette": check_palette,
    "gan_to_uint8": check_gan,
    "train_manager": check_manager,
    "reuse": check_reuse,
    "results_summary": check_summary,
    "hub_tf1_module": check_hub,
}
