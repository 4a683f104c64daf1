"""Replay sources against local servers and modules, with faults put in; class mapping; other providers' weights."""

from __future__ import annotations

import http.server
import io
import json
import subprocess
import sys
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_kernel import BadCheckpoint, BadInput, Cache, MissingAsset, Resources
from cl_kernel.cli.main import main
from cl_plugin_recall.data import flickr, toy
from cl_plugin_recall.data.files import encode_jpeg
from cl_plugin_recall.method import mapping
from cl_plugin_recall.method.sources import FolderSource, build_gan, generate
from cl_plugin_recall.network import build, hub, resnet
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.settings import GanReplay
from cl_plugin_recall.weights import checkpoints, providers


def test_tensorflow_starts_without_keras_and_hub_still_finds_it() -> None:
    code = """
import sys
from cl_plugin_recall.backend import tf
print("keras" in sys.modules or "tf_keras" in sys.modules)
from cl_plugin_recall.network import hub
print(issubclass(hub.tensorflow_hub().KerasLayer, tf.Module))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "True"]


class Service(http.server.BaseHTTPRequestHandler):
    """A photo service of 12 photos: two pages, one photo removed, one double, one no JPEG; first come the faults."""

    calls: list[str]
    faults: list[int]

    def do_GET(self) -> None:
        url = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.calls.append(self.path)
        fault = self.faults.pop(0) if self.faults else 200
        if fault != 200:
            self.send_response(fault if fault > 0 else 200)
            self.send_header(*(("Retry-After", "0") if fault > 0 else ("Content-Length", "99")))  # -1: cut short
            self.end_headers()
            return
        if url.path.startswith("/photo"):
            k = int(url.path.rsplit("/", 1)[1])
            if k == 3:
                self.send_error(410)
                return
            data = b"<html>" if k == 5 else encode_jpeg(np.full((8, 8, 3), 20 * (4 if k == 6 else k), np.uint8))
            self.answer(data)
        elif query["api_key"] != "good":
            self.answer(json.dumps({"stat": "fail", "code": 100, "message": "Invalid API Key"}).encode())
        else:
            page = int(query["page"])
            base = f"http://{self.headers['Host']}/photo/"
            photos = [
                {
                    "id": str(k),
                    "owner": "o",
                    "ownername": "n",
                    "license": "4",
                    **({} if k == 7 else {"url_c": f"{base}{k}"}),
                }
                for k in range(6 * (page - 1), 6 * page)
            ]
            self.answer(json.dumps({"stat": "ok", "photos": {"pages": 2, "photo": photos}}).encode())

    def answer(self, data: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[tuple[str, type[Service]]]:
    handler = type("Fresh", (Service,), {"calls": [], "faults": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/rest/", handler
        server.shutdown()
        thread.join()


def patient() -> flickr.Http:
    return flickr.Http(flickr.Limits(per_second=1e6, wait_s=0.0), sleep=lambda _: None)


def test_a_download_skips_what_is_gone_and_keeps_provenance(service: tuple[str, type[Service]], tmp_path: Path) -> None:
    endpoint, handler = service
    handler.faults[:] = [429, 500]
    web = patient()
    tally = flickr.download_class(web, "good", tmp_path / "01", "bird", 20, endpoint=endpoint, licences=[4])
    assert (tally.saved, tally.gone, tally.twice, tally.broken, web.retries) == (8, 1, 1, 1, 2)
    assert tally.skipped == {"3": "answers 410", "5": "no whole JPEG", "6": "same bytes as another"}
    records = flickr.read_provenance(tmp_path / "01")
    assert [r["id"] for r in records] == ["0", "1", "2", "4", "8", "9", "10", "11"]
    assert all(len(r["sha256"]) == 64 and r["licence"] == "4" for r in records)
    assert "license=4" in handler.calls[0] and "good" not in (tmp_path / "01" / flickr.PROVENANCE).read_text()


def test_a_download_goes_on_where_it_stopped(service: tuple[str, type[Service]], tmp_path: Path) -> None:
    endpoint, handler = service
    flickr.download_class(patient(), "good", tmp_path, "bird", 2, endpoint=endpoint)
    with (tmp_path / flickr.PROVENANCE).open("a") as file:
        file.write('{"file": "00')  # killed while writing
    handler.calls.clear()
    tally = flickr.download_class(patient(), "good", tmp_path, "bird", 4, endpoint=endpoint)
    assert (tally.kept, tally.saved) == (2, 2)
    assert not any(call.endswith(("/photo/0", "/photo/1")) for call in handler.calls)
    assert len(list(tmp_path.glob("*.jpg"))) == len(flickr.read_provenance(tmp_path)) == 4


@pytest.mark.parametrize("faults, saved, gone", [([200, 429, 500], 2, 0), ([200, *[503] * 5], 2, 1), ([200, -1], 2, 0)])
def test_a_photo_that_is_refused_is_asked_for_again_then_passed_over(
    service: tuple[str, type[Service]], tmp_path: Path, faults: list[int], saved: int, gone: int
) -> None:
    endpoint, handler = service
    handler.faults[:] = faults
    web = patient()
    tally = flickr.download_class(web, "good", tmp_path, "bird", 2, endpoint=endpoint)
    assert (tally.saved, tally.gone) == (saved, gone) and web.retries == min(len(faults) - 1, 4)


def test_an_expired_key_is_named_and_not_tried_again(service: tuple[str, type[Service]], tmp_path: Path) -> None:
    endpoint, handler = service
    with pytest.raises(flickr.SearchRefused, match="Invalid API Key") as caught:
        flickr.download_class(patient(), "stale", tmp_path, "bird", 2, endpoint=endpoint)
    assert len(handler.calls) == 1 and "stale" not in str(caught.value)


def test_endless_refusals_end_with_a_message(service: tuple[str, type[Service]], tmp_path: Path) -> None:
    endpoint, handler = service
    handler.faults[:] = [429] * 9
    with pytest.raises(flickr.SearchRefused, match="429"):
        flickr.download_class(patient(), "good", tmp_path, "bird", 2, endpoint=endpoint)
    assert len(handler.calls) == 5


def test_the_key_comes_from_the_environment_only() -> None:
    assert flickr.api_key({flickr.KEY_VARIABLE: "k"}) == "k"
    with pytest.raises(MissingAsset, match="FLICKR_API_KEY"):
        flickr.api_key({})


def test_the_flickr_command_fills_class_folders(
    service: tuple[str, type[Service]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(flickr.KEY_VARIABLE, "good")
    command = [
        "recall",
        "make-replay",
        "flickr",
        "--output",
        str(tmp_path),
        "--classes",
        "1,3",
        "--n",
        "2",
        "--endpoint",
        service[0],
        "--rate",
        "1000",
        "--tfrecord",
    ]
    assert main(command) == 0
    assert (tmp_path / "01.tfrecord").is_file() and len(list((tmp_path / "03").glob("*.jpg"))) == 2


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    toy.export_generator(folder / "generator")
    toy.export_classifier(folder / "classifier")
    return folder


def test_the_generator_is_a_module_that_draws_its_class(modules: Path) -> None:
    import colorsys

    generator = hub.load_generator(modules / "generator")
    assert (generator.depth, generator.n_classes) == (128, 40)
    for c in (1, 7, 20):
        image = (
            next(iter(generate(generator, toy.generator_class(c), GanReplay(per_class=1), np.random.default_rng(c))))
            / 255.0
        )
        hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3)])
        vivid = hsv[hsv[:, 1] > 0.6]
        turn = np.angle(np.exp(2j * np.pi * (vivid[:, 0] - toy.hue_of(c))).mean()) / (2 * np.pi)
        assert len(vivid) > 100 and abs(turn) < 0.05


def test_the_same_seed_draws_the_same_images(modules: Path) -> None:
    generator = hub.load_generator(modules / "generator")
    draws = [
        np.stack(list(generate(generator, 3, GanReplay(per_class=3, batch=2), np.random.default_rng(s))))
        for s in (0, 0, 1)
    ]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()


def test_the_class_mapping_finds_the_generators_classes(modules: Path, tmp_path: Path) -> None:
    assert (
        main(
            [
                "recall",
                "map-classes",
                "--classifier",
                str(modules / "classifier"),
                "--classes",
                "1-10",
                "--override",
                "10=5",
                "--output",
                str(tmp_path / "map.json"),
            ]
        )
        == 0
    )
    chosen = mapping.read_mapping(tmp_path / "map.json")
    right = [c for c in range(1, 10) if chosen[c] == toy.generator_class(c)]
    assert len(right) >= 7 and chosen[10] == 5
    first = json.loads((tmp_path / "map.json").read_text())["classes"][0]
    assert len(first["top5"]) == 5 and abs(sum(first["mean"]) - 1) < 1e-6
    assert (
        main(
            [
                "recall",
                "make-replay",
                "gan",
                "--module",
                str(modules / "generator"),
                "--mapping",
                str(tmp_path / "map.json"),
                "--classes",
                "1-2",
                "--n",
                "3",
                "--output",
                str(tmp_path / "gan"),
            ]
        )
        == 0
    )
    assert len(list((tmp_path / "gan" / "02").glob("*.jpg"))) == 3


def bare_module(folder: Path) -> Path:
    from cl_plugin_recall.backend import tf

    tf.saved_model.save(tf.Module(), str(folder))
    return folder


def test_a_module_with_another_signature_is_refused(modules: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="signature"):
        hub.load_generator(modules / "classifier")
    with pytest.raises(BadInput, match="signature"):
        hub.load_classifier(bare_module(tmp_path / "bare"))
    with pytest.raises(MissingAsset, match=r"saved_model.pb"):
        hub.load_generator(tmp_path)


def test_a_module_without_mapping_is_refused(modules: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match="mapping"):
        build_gan(GanReplay(module=str(modules / "generator")), Resources(cache=Cache(tmp_path)))


@pytest.mark.parametrize("name", ["03", "3", "03_bird", "bird", "Bird"])
def test_folders_are_found_by_number_or_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.jpg").write_bytes(b"x")
    assert [data for _, data in FolderSource(tmp_path).images(3, "bird")] == [b"x"]


def test_two_folders_for_a_class_are_refused(tmp_path: Path) -> None:
    for name in ("03", "bird"):
        (tmp_path / name).mkdir()
    with pytest.raises(BadInput, match="two folders"):
        FolderSource(tmp_path).files(3, "bird")


# ---- weights ------------------------------------------------------------------------------------------
def small() -> resnet.ResNet:
    return resnet.ResNet(resnet.ResNetSpec(divisor=16), np.random.default_rng(0))


def test_a_checkpoint_is_written_and_read_back_under_the_reference_names(tmp_path: Path) -> None:
    encoder = small()
    checkpoints.save(tmp_path / "P1.0_E15", encoder.values())
    assert {p.name for p in tmp_path.iterdir()} == {"P1.0_E15.index", "P1.0_E15.data-00000-of-00001"}
    back = checkpoints.load(tmp_path / "P1.0_E15", {n: tuple(v.shape) for n, v in encoder.named.items()})
    assert len(back) == 520 and all((back[n] == v).all() for n, v in encoder.values().items())


@pytest.mark.parametrize(
    "change, words",
    [("missing", "missing, as resnet_v1_101/conv1/weights"), ("extra", "too many, as extra"), ("shape", "expected")],
)
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path: Path, change: str, words: str) -> None:
    values = small().values()
    shapes = {n: v.shape for n, v in values.items()}
    if change == "missing":
        del values["resnet_v1_101/conv1/weights"]
    elif change == "extra":
        values["extra"] = np.zeros(3, np.float32)
    else:
        values["resnet_v1_101/conv1/weights"] = np.zeros((3, 3, 3, 4), np.float32)
    checkpoints.save(tmp_path / "a", values)
    with pytest.raises(BadCheckpoint, match=words):
        checkpoints.load(tmp_path / "a", shapes)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "a", {"x": np.arange(1000, dtype=np.float32)})
    data = tmp_path / "a.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(BadCheckpoint):
        checkpoints.load(tmp_path / "a")
    with pytest.raises(MissingAsset):
        checkpoints.load(tmp_path / "b")


def test_the_paper_network_has_the_stated_tensors() -> None:
    shapes = resnet.resnet_shapes(resnet.ResNetSpec())
    assert len(shapes) == 520
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 42_605_504
    assert sum(name.endswith("/weights") for name in shapes) == 104
    decoder = Decoder(2048, 21, np.random.default_rng(0))
    assert sum(v.size for v in decoder.values().values()) == 1_548_372


def torch_names(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our tensors as torchvision would call them, written independently of the importer."""
    leaf = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    found = {}
    for name, value in values.items():
        parts = name.split("/")[1:]
        bn = parts[-2] == "BatchNorm"
        layer = parts[-3] if bn else parts[-2]
        end = leaf[parts[-1]] if bn else "weight"
        if parts[0] == "conv1":
            stem = "bn1" if bn else "conv1"
        else:
            block, unit = int(parts[0][5:]), int(parts[1][5:]) - 1
            short = f"downsample.{int(bn)}" if layer == "shortcut" else f"{'bn' if bn else 'conv'}{layer[4:]}"
            stem = f"layer{block}.{unit}.{short}"
        found[f"{stem}.{end}"] = value if bn else value.transpose(3, 2, 0, 1)
    return found


def test_torchvision_names_are_mapped_without_torch(tmp_path: Path) -> None:
    values = small().values()
    state = torch_names(values) | {"fc.weight": np.zeros((2, 2), np.float32), "bn1.num_batches_tracked": np.array(3)}
    back = providers.from_torchvision(state)
    assert set(back) == set(values) and all((back[n] == v).all() for n, v in values.items())
    header, body = {}, b""
    for name, value in state.items():
        value = np.ascontiguousarray(value, np.float32)
        header[name] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + value.nbytes],
        }
        body += value.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    again = providers.read_encoder(tmp_path / "a.safetensors", "torchvision")
    assert all((again[n] == v).all() for n, v in values.items())


def test_the_import_command_writes_a_bundle_or_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = small().values()
    checkpoints.save(tmp_path / "there", values)
    command = ["recall", "import-checkpoint", "--divisor", "16", "--output", str(tmp_path / "out" / "encoder")]
    assert main([*command, str(tmp_path / "there")]) == 0
    assert all((v == values[n]).all() for n, v in checkpoints.load(tmp_path / "out" / "encoder").items())
    del values["resnet_v1_101/conv1/weights"]
    checkpoints.save(tmp_path / "short", values)
    assert main([*command, str(tmp_path / "short")]) == 2
    assert "resnet_v1_101/conv1/weights" in capsys.readouterr().err


def test_a_state_dict_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("gotcha",))

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"x": Evil()}))
    (tmp_path / "a.pth").write_bytes(data.getvalue())
    with pytest.raises(BadCheckpoint, match="plain"):
        providers.read_encoder(tmp_path / "a.pth", "torchvision")


@pytest.mark.parametrize("source", list(build.SOURCES))
def test_every_weight_source_builds_a_network_that_runs(source: str) -> None:
    from cl_plugin_recall.backend import tf
    from cl_plugin_recall.settings import Deeplab

    spec = build.resnet_spec(Deeplab(divisor=16, units=(1, 1, 1, 1), weight_source=source))  # type: ignore[arg-type]
    encoder = resnet.ResNet(spec, np.random.default_rng(0))
    x = build.input_spec(source).apply(tf.zeros([1, 33, 41, 3], tf.uint8))
    assert encoder(x).shape == (1, 5, 6, 128)
