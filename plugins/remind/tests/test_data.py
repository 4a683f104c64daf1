"""Image folders, class orders, CORe50 orders and VQA files; each fault is named before training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from cl_kernel import BadInput, BadSetting, MissingAsset, Resources
from cl_kernel.data.samples import identify_samples
from cl_kernel.storage.digests import Files
from cl_plugin_remind.data import core50, features, folders, prepare, questions, toy, vqa
from cl_plugin_remind.settings import Core50, ImageNet, Questions, TinyCore, TinyQuestions, TinyShapes

NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for side, count in (("train", 3), ("val", 2)):
        for name in NAMES:
            (tmp_path / side / name).mkdir(parents=True)
            for k in range(count):
                picture = rng.integers(0, 255, (20, 26, 3), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / side / name / f"{k}.png")
    return tmp_path


def settings(images: Path, **more: object) -> ImageNet:
    return ImageNet(images=str(images), base_classes=2, increment=1, max_class=0, resize=18, side=16, **more)


def test_an_image_folder_streams_class_after_class_in_the_given_order(images: Path) -> None:
    (images / "order.txt").write_text("dog\nant\ncat\nbee\n")
    stream = folders.imagenet(settings(images, class_order=str(images / "order.txt")), Resources())
    stream.check()
    found = [stage.train.take(np.arange(len(stage.train)))["class"].tolist() for stage in stream.stages]
    assert found == [[0, 0, 0, 3, 3, 3], [2, 2, 2], [1, 1, 1]]
    assert stream.stages[0].train.take(np.arange(2))["image"].shape == (2, 16, 16, 3)


def test_label_files_give_the_same_stream_as_the_order_they_came_from(images: Path) -> None:
    (images / "order.txt").write_text("dog\nant\ncat\nbee\n")
    folders.write_labels(images, images / "order.txt", images / "labels")
    by_order = folders.imagenet(settings(images, class_order=str(images / "order.txt")), Resources())
    by_labels = folders.imagenet(settings(images, label_dir=str(images / "labels")), Resources())
    files = Files()
    held = [[identify_samples(stage.train, files) for stage in stream.stages] for stream in (by_labels, by_order)]
    assert held[0] == held[1]


def test_a_class_order_may_begin_with_a_byte_order_mark(images: Path) -> None:
    (images / "order.txt").write_bytes(b"\xef\xbb\xbf" + b"dog\r\nant\r\ncat\r\nbee\r\n")
    assert folders.read_order(images / "order.txt") == ["dog", "ant", "cat", "bee"]
    (images / "order.txt").write_bytes("dog\nant\n".encode("utf-16"))
    with pytest.raises(BadInput, match="no UTF-8 text"):
        folders.read_order(images / "order.txt")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["dog", "ant", "cat", "emu"], "line 4: unknown class 'emu'"),
        (["dog", "ant", "dog", "bee"], "line 3: class 'dog' was already on line 1"),
        (["dog", "ant", "cat"], "missing: bee"),
    ],
)
def test_a_class_order_with_a_fault_names_the_line(images: Path, lines: list[str], message: str) -> None:
    (images / "order.txt").write_text("\n".join(lines))
    with pytest.raises(BadInput, match=message):
        folders.imagenet(settings(images, class_order=str(images / "order.txt")), Resources())


def test_a_label_file_of_the_wrong_length_is_named(images: Path) -> None:
    folder = images / "labels" / "imagenet_indices"
    folder.mkdir(parents=True)
    np.save(folder / "imagenet_train_labels.npy", np.zeros(5, np.int64))
    with pytest.raises(BadInput, match=r"holds int64 \[5\], the folder has 12 images"):
        folders.imagenet(settings(images, label_dir=str(images / "labels")), Resources())
    np.save(folder / "imagenet_train_labels.npy", np.array([0, 0, 1, *[1] * 3, *[2] * 3, *[3] * 3]))
    with pytest.raises(BadInput, match="gives class 'ant' the ranks"):
        folders.imagenet(settings(images, label_dir=str(images / "labels")), Resources())


def test_a_corrupt_image_is_named_when_it_is_read(images: Path) -> None:
    (images / "train" / "bee" / "1.png").write_bytes(b"no picture")
    stream = folders.imagenet(settings(images), Resources())
    with pytest.raises(BadInput, match=r"(?s)cannot be read.*bee/1.png"):
        stream.stages[0].train.take(np.arange(6))


def test_missing_folders_and_too_many_base_classes_are_named(tmp_path: Path, images: Path) -> None:
    with pytest.raises(MissingAsset):
        folders.imagenet(ImageNet(images=str(tmp_path / "nowhere")), Resources())
    with pytest.raises(BadInput, match="do not fit"):
        folders.imagenet(ImageNet(images=str(images), base_classes=9, max_class=0), Resources())


@pytest.mark.parametrize("kind", core50.ORDERS)
def test_each_order_streams_every_frame_once(kind: str) -> None:
    stream = toy.tinycore(TinyCore(order=kind, n_frames=6), Resources())
    stream.check()
    items = np.concatenate([stage.info["items"] for stage in stream.stages])
    assert sorted(items.tolist()) == list(range(4 * 3 * 3 * 6))


def frames() -> core50.Frames:
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(2), np.arange(2), np.arange(5), indexing="ij"), -1).reshape(
        -1, 4
    )
    return core50.Frames(label=grid[:, 0], instance=grid[:, 1], session=grid[:, 2], time=grid[:, 3])


def test_clips_keep_their_time_order_and_classes_their_sequence() -> None:
    table = frames()
    for kind in ("instance", "class_instance"):
        order = core50.order_of(kind, table, np.random.default_rng(0))
        for clip in np.split(order, len(order) // 5):
            assert len({(table.label[r], table.instance[r], table.session[r]) for r in clip}) == 1
            assert table.time[clip].tolist() == [0, 1, 2, 3, 4]
    for kind in ("class_iid", "class_instance"):
        labels = table.label[core50.order_of(kind, table, np.random.default_rng(0))]
        assert (np.diff(labels) != 0).sum() == 2
    with pytest.raises(BadInput, match="no order"):
        core50.order_of("random", table, np.random.default_rng(0))


def test_a_tree_in_the_form_of_core50_is_read(tmp_path: Path) -> None:
    for session in (1, 3):
        for thing in (1, 6, 11, 50):
            folder = tmp_path / "core50_128x128" / f"s{session}" / f"o{thing}"
            folder.mkdir(parents=True)
            for frame in range(4):
                Image.new("RGB", (8, 8), (thing * 5, frame, session)).save(
                    folder / f"C_{session:02d}_{thing:02d}_{frame:03d}.png"
                )
    stream = core50.core50(Core50(order="class_iid", every=2, side=8), Resources(roots=(tmp_path,)))
    assert len(stream.test) == 8 and sum(len(s.train) for s in stream.stages) == 8
    assert set(stream.test.take(np.arange(8))["class"].tolist()) == {0, 1, 2, 9}
    (tmp_path / "core50_128x128" / "s3" / "o50").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="1 of 8 clips are missing, the first is s3/o50"):
        core50.core50(Core50(), Resources(roots=(tmp_path,)))
    with pytest.raises(MissingAsset, match="vlomonaco"):
        core50.core50(Core50(), Resources(roots=(tmp_path / "none",)))


def test_base_classes_of_the_stand_in_cover_every_figure_and_hue() -> None:
    for seed in range(4):
        stream = toy.tinyshapes(TinyShapes(n_train=2, n_test=1), Resources(seed=seed))
        base = stream.stages[0].classes
        assert {c // 3 for c in base} == set(range(4)) and {c % 3 for c in base} == set(range(3))
        assert [len(s.classes) for s in stream.stages] == [6, 2, 2, 2]


# ---- questions --------------------------------------------------------------------------------------


def write_clevr(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "questions").mkdir(parents=True)
    for side, n_images, n_questions in (("train", 12, 60), ("val", 4, 15)):
        (root / "images" / side).mkdir(parents=True)
        scenes, pictures = toy.draw_scenes(n_images, rng)
        for k, picture in enumerate(pictures):
            array = (picture.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
            Image.fromarray(array).save(root / "images" / side / f"CLEVR_{side}_{k:06d}.png")
        entries = []
        while len(entries) < n_questions:
            image = int(rng.integers(n_images))
            asked = toy.ask_clevr(toy.CLEVR_TYPES[len(entries) % 5], scenes[image], rng)
            if asked is not None:
                entries.append(
                    {
                        "question_index": len(entries),
                        "image_index": image,
                        "question": asked[0],
                        "answer": asked[1],
                        "program": asked[2],
                    }
                )
            else:
                image = int(rng.integers(n_images))
        (root / "questions" / f"CLEVR_{side}_questions.json").write_text(json.dumps({"questions": entries}))


@pytest.mark.slow
def test_clevr_goes_from_its_published_form_to_a_stream(tmp_path: Path) -> None:
    write_clevr(tmp_path)
    folder = tmp_path / "prepared"
    assert prepare.prepare("clevr", tmp_path, folder) == {"train_clevr.h5": 60, "val_clevr.h5": 15}
    features.extract("clevr", tmp_path, folder, network="resnet18", stage=1, weights="")
    chosen = Questions(order="qtype", codebooks=4, codebook_size=16, longest=12, folder=str(folder))
    features.encode("clevr", folder, chosen, decoded=True)
    stream = vqa.clevr(chosen, Resources())
    stream.check()
    assert len(stream.stages) == 5 and stream.stages[0].train.take(np.arange(2))["codes"].shape[2] == 4


def test_feature_files_with_faults_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    write_clevr(tmp_path)
    folder = tmp_path / "prepared"
    prepare.prepare("clevr", tmp_path, folder)
    _, _, title, map_title = features.DEFAULTS["clevr"]
    chosen = Questions(order="qtype", codebooks=4, codebook_size=16, longest=12, folder=str(folder))
    ids = [iid for iid, _ in features.image_files("clevr", tmp_path)]

    def write(n_rows: int, n_ids: int) -> None:
        with h5py.File(folder / f"{title}.h5", "w") as file:
            file["image_features"] = np.random.default_rng(0).random((n_rows, 9, 8), np.float32)
        index = {str(iid): row for row, iid in enumerate(ids[:n_ids])}
        (folder / f"{map_title}.json").write_text(json.dumps({"image_id_to_ix": index, "image_ix_to_id": {}}))

    write(len(ids), 3)
    with pytest.raises(BadInput, match=r"question \d+ asks about image \d+, which has no features"):
        features.encode("clevr", folder, chosen)
    write(len(ids) - 1, len(ids))
    with pytest.raises(BadInput, match="holds 15 images, its map 16"):
        features.encode("clevr", folder, chosen)
    write(len(ids), len(ids))
    whole = (folder / f"{title}.h5").read_bytes()
    (folder / f"{title}.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cut short"):
        features.encode("clevr", folder, chosen)
    (folder / f"{title}.h5").write_bytes(whole)
    features.encode("clevr", folder, chosen)
    vqa.clevr(chosen, Resources()).check()
    codes = folder / "codes_qtype.h5"
    codes.write_bytes(codes.read_bytes()[:500])
    with pytest.raises(BadInput, match="cut short"):
        vqa.clevr(chosen, Resources())
    (folder / "map.json").write_text('{"image_id_to')
    with pytest.raises(BadInput, match=r"(?s)look-up file cannot be read.*map.json"):
        vqa.clevr(chosen, Resources())


def test_annotations_with_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset):
        prepare.prepare("clevr", tmp_path, tmp_path / "out")
    (tmp_path / "questions").mkdir()
    path = tmp_path / "questions" / "CLEVR_train_questions.json"
    path.write_text('{"questions": [{"ques')
    with pytest.raises(BadInput, match="cut short"):
        prepare.clevr_rows(tmp_path, "train")
    path.write_text(
        json.dumps(
            {"questions": [{"image_index": 0, "question": "q", "answer": "a", "program": [{"function": "fly"}]}]}
        )
    )
    with pytest.raises(BadInput, match=r"(?s)unknown function 'fly'.*question 0"):
        prepare.clevr_rows(tmp_path, "train")


def test_tdiuc_annotations_are_read_in_their_published_form(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Questions").mkdir()
    for side in ("train", "val"):
        rows = [
            {"question_id": k, "image_id": 7, "question_type": "color", "answers": [{"answer": "red"}]}
            for k in range(3)
        ]
        (tmp_path / "Annotations" / f"mscoco_{side}2014_annotations.json").write_text(json.dumps({"annotations": rows}))
        asked = [{"question_id": k, "image_id": 7, "question": f"What {k}?"} for k in range(3)]
        (tmp_path / "Questions" / f"OpenEnded_mscoco_{side}2014_questions.json").write_text(
            json.dumps({"questions": asked})
        )
    assert prepare.prepare("tdiuc", tmp_path, tmp_path / "out") == {"train_tdiuc.h5": 3, "val_tdiuc.h5": 3}
    content = vqa.read_annotations(tmp_path / "out" / "train_tdiuc.h5")
    assert content["ten_aidx"].shape == (3, 10) and content["q"].tolist() == ["What 0?", "What 1?", "What 2?"]


def test_a_question_about_an_unknown_image_is_named() -> None:
    asked = vqa.Asked(text=["a"], qid=np.array([41]), image=np.array([5]), answer=np.array([0]), kind=np.array([0]))
    with pytest.raises(BadInput, match="question 41"):
        vqa.make_stream(
            "x",
            Questions(),
            asked,
            asked,
            np.zeros((2, 4, 8), np.float32),
            n_types=1,
            type_names=["t"],
            answer_names=["a"],
            unit_regions=False,
        )


def test_long_questions_are_cut_and_unknown_words_left_out() -> None:
    vocabulary = questions.Vocabulary.of(["what is this"])
    tokens, lengths, unknown = vocabulary.encode(["what is this thing", "", "is is is is is is"], 4)
    assert tokens.tolist() == [[0, 1, 2, 3], [3, 3, 3, 3], [1, 1, 1, 1]]
    assert lengths.tolist() == [3, 1, 4] and unknown == 1


def test_published_type_orders() -> None:
    assert questions.type_order(5) == [0, 2, 1, 4, 3]
    assert questions.type_order(12) == [7, 0, 3, 1, 8, 4, 10, 11, 5, 6, 9, 2]


def test_full_size_boundaries_are_tenths() -> None:
    order, boundaries = questions.dataset_order("iid", np.zeros(95, int), np.zeros(95, int), 1)
    assert len(order) == 95 and boundaries == [9, 19, 28, 38, 47, 57, 66, 76, 85, 95]


@pytest.mark.parametrize("n_images", [1, 6])
def test_scenes_that_allow_no_question_of_a_type_are_refused(n_images: int) -> None:
    with pytest.raises(BadSetting, match="scenes lets a question of type"):
        toy.tinyclevr(TinyQuestions(n_train=3, n_test=3, n_images=n_images), Resources())


@pytest.mark.parametrize("make", [toy.tinyclevr, toy.tinytdiuc])
@pytest.mark.parametrize("order", ["iid", "qtype"])
def test_question_streams_are_sound(make: object, order: str) -> None:
    stream = make(
        TinyQuestions(order=order, n_train=20, n_test=5, n_images=40, codebooks=8, codebook_size=16, longest=12),
        Resources(),
    )
    stream.check()
    lengths = stream.stages[0].train.take(np.arange(len(stream.stages[0].train)), ["length"])["length"]
    assert (np.diff(lengths) <= 0).all()  # one sorting batch


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_both_decoders_give_the_same_pixels(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((120, 90))
    picture.convert(mode).save(tmp_path / "p.jpg", quality=80)
    fast = folders.decoded_jpeg((tmp_path / "p.jpg").read_bytes())
    plain = np.asarray(Image.open(tmp_path / "p.jpg").convert("RGB"))
    assert fast is None if mode == "CMYK" else np.array_equal(fast, plain)
    assert folders.decoded_jpeg((tmp_path / "p.jpg").read_bytes()[:700]) is None


def test_a_turned_jpeg_is_shown_upright(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "a" / "p.jpg", quality=100, exif=exif)
    picture.save(tmp_path / "a" / "q.jpg", quality=100)
    turned, plain = folders.ImageFiles.scan(tmp_path, 16, 16).take(np.arange(2))["image"]
    assert np.array_equal(turned, plain[::-1, ::-1])


def test_squares_are_those_of_pillow_within_a_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    picture = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((500, 375), 3)
    picture.save(tmp_path / "a" / "p.png")
    found = folders.ImageFiles.scan(tmp_path, 256, 224).take(np.arange(1))["image"][0]
    whole = picture.resize((341, 256), 2).crop((58, 16, 282, 240))
    assert np.abs(found.astype(int) - np.asarray(whole)).max() <= 1


def test_reduced_decoding_is_close_and_another_identity(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((512, 512), 3)
    picture.save(tmp_path / "a" / "p.jpg", quality=95)
    whole, reduced = (folders.ImageFiles.scan(tmp_path, 64, 64, reduced=r) for r in (False, True))
    images = [files.take(np.arange(1))["image"].astype(int) for files in (whole, reduced)]
    assert 0 < np.abs(images[0] - images[1]).mean() < 3
    assert identify_samples(whole, Files()) != identify_samples(reduced, Files())


def test_identity_follows_bytes_and_decoding_not_names(images: Path, tmp_path: Path) -> None:
    before = identify_samples(folders.imagenet(settings(images), Resources()).stages[0].train, Files())
    other = folders.imagenet(settings(images), Resources())
    assert identify_samples(other.stages[0].train, Files()) == before
    path = images / "train" / "ant" / "1.png"
    stamp = path.stat()
    Image.new("RGB", (20, 26)).save(path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert identify_samples(folders.imagenet(settings(images), Resources()).stages[0].train, Files()) != before
