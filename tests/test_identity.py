"""Identities: equal for equal things wherever they lie, and what differs is named."""

import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve, field, frozen

from cl_kernel import ArraySamples, Field, RunConflict, class_incremental, doc, subset
from cl_kernel.data.samples import Concatenation
from cl_kernel.running.identify import identified
from cl_kernel.storage.cache import Cache
from cl_kernel.storage.digests import Files
from cl_kernel.storage.identity import counted, differences, identify, record, recorded, same_or_refuse


@frozen(kw_only=True)
class Settings:
    lr: float = 0.1
    n_workers: int = field(default=2, metadata=doc("threads", harmless="how many work"))
    path: str = field(default="", metadata=doc("folder", counted="what the files hold"))
    stream_lr: float = field(default=0.5, metadata=doc("rate while streaming", only="streaming"))


def test_every_setting_counts_unless_its_declaration_says_why_not():
    one = identify("mine-base", settings=Settings())
    assert one.key == identify("mine-base", settings=Settings(n_workers=9, path="/elsewhere")).key
    assert one.key != identify("mine-base", settings=Settings(lr=0.2)).key
    assert one.key != identify("mine-base", settings=Settings(stream_lr=0.2)).key
    assert one.key != identify("mine-base", 2, settings=Settings()).key
    assert one.key != identify("other-base", settings=Settings()).key
    assert set(counted(Settings(), "base")) == {"lr"} and set(counted(Settings(), "streaming")) == {"lr", "stream_lr"}


def test_a_folder_counts_by_names_and_content_and_not_by_where_it_lies(tmp_path):
    for name in ("one", "deep/two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.txt").write_text("a")
        (tmp_path / name / "b.txt").write_text("b")
    keys = {identify("x", data=tmp_path / name).key for name in ("one", "deep/two")}
    assert len(keys) == 1
    (tmp_path / "one" / "b.txt").write_text("c")
    assert identify("x", data=tmp_path / "one").key not in keys
    (tmp_path / "deep/two" / "b.txt").rename(tmp_path / "deep/two" / "c.txt")
    assert identify("x", data=tmp_path / "deep/two").key not in keys


def test_things_without_content_are_refused():
    with pytest.raises(TypeError, match="has no identity"):
        identify("x", thing=object())
    with pytest.raises(TypeError, match="has no identity"):
        identify("x", thing=len)


def test_what_differs_is_named(tmp_path):
    one = identify("x", settings=Settings(), seed=1, weights={"a": np.zeros(3)})
    two = identify("x", settings=Settings(lr=0.3), seed=2, weights={"a": np.ones(3)})
    assert differences(one, one) == []
    lines = differences(one, two)
    assert lines[0] == "settings.lr: 0.1, now 0.3" and lines[1] == "seed: 1, now 2" and len(lines) == 3
    record(tmp_path, one)
    assert recorded(tmp_path) == one.plain() and recorded(tmp_path / "nothing") is None
    same_or_refuse(recorded(tmp_path), one, what="the features", where=tmp_path)
    with pytest.raises(RunConflict, match=r"settings\.lr: 0\.1, now 0\.3"):
        same_or_refuse(recorded(tmp_path), two, what="the features", where=tmp_path)
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(RunConflict, match="damaged"):
        recorded(tmp_path)


# ---- streams -------------------------------------------------------------------------------------


def stream(n_classes: int, n_stages: int, change: int | None = None):
    spec = {
        "vector": Field(shape=(2,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=n_classes),
    }
    labels = np.repeat(np.arange(n_classes), 4)
    vectors = np.stack([labels, np.tile(np.arange(4), n_classes)], 1).astype("float32")
    if change is not None:
        vectors[change, 1] += 1
    samples = ArraySamples(spec, {"vector": vectors, "class": labels})
    made = class_incremental("s", samples, samples, [f"c{i}" for i in range(n_classes)], n_stages=n_stages)
    return identified(made, "mine:s", 1, None, Files())


def test_a_longer_stream_begins_with_the_identities_of_the_shorter():
    short, long = stream(4, 2), stream(8, 4)
    assert [s.identity.key for s in short.stages] == [s.identity.key for s in long.stages][:2]
    assert short.identity.key != long.identity.key and short.fingerprint == short.identity.key
    other = stream(8, 4, change=9)
    same = [a.identity.key == b.identity.key for a, b in zip(long.stages, other.stages, strict=True)]
    assert same == [True, False, True, True]
    assert any("stages.1 c2+c3" in line for line in differences(long.identity, other.identity))


def test_samples_count_by_what_their_rows_hold_in_their_order():
    files = Files()
    base = stream(4, 2).test
    whole = base.identify(files)
    assert subset(base, np.arange(len(base))).identify(files) == whole
    assert subset(base, np.arange(len(base))[::-1]).identify(files) != whole
    both = Concatenation([subset(base, np.arange(8)), subset(base, np.arange(8, 16))])
    assert both.identify(files, np.arange(4)) != both.identify(files, np.arange(4)[::-1])
    assert both.identify(files, np.array([1, 9])) != both.identify(files, np.array([1, 10]))


def test_samples_of_contract_1_keep_the_fingerprint_they_gave():
    class Old:
        def __init__(self, inner):
            self.inner = inner
            self.spec = inner.spec

        def __len__(self):
            return len(self.inner)

        def take(self, rows, fields=None):
            return self.inner.take(rows, fields)

    base = Old(stream(4, 2).test)
    made = class_incremental("s", base, base, ["a", "b", "c", "d"], n_stages=2, fingerprint="theirs")
    one = identified(made, "mine:s", 1, None, Files())
    assert one.fingerprint == "theirs" and "theirs" in one.stages[0].identity.parts["train"]
    assert one.stages[0].identity.key != one.stages[1].identity.key
    two = identified(evolve(made, fingerprint="changed"), "mine:s", 1, None, Files())
    assert two.stages[0].identity.key != one.stages[0].identity.key


# ---- artefacts -----------------------------------------------------------------------------------


def make_slowly(root: Path, log: Path) -> None:
    def maker(folder: Path) -> None:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(1)
        (folder / "x").write_text("1")

    cache = Cache(root, on_wait=lambda kind, path: log.open("a").write("waited\n"))
    cache.artefact(identify("slow", settings=Settings())).make(maker)


def test_of_two_processes_one_makes_it_and_the_other_waits(tmp_path):
    jobs = [
        multiprocessing.get_context("fork").Process(target=make_slowly, args=(tmp_path / "c", tmp_path / "log"))
        for _ in range(3)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(30)
    lines = (tmp_path / "log").read_text().split()
    assert [job.exitcode for job in jobs] == [0, 0, 0] and lines.count("made") == 1 and lines.count("waited") == 2
    assert [p.name for p in (tmp_path / "c" / "slow").iterdir() if p.name.startswith(".")] == []


def test_a_killed_maker_leaves_the_work_to_the_next(tmp_path):
    job = multiprocessing.get_context("fork").Process(target=make_slowly, args=(tmp_path / "c", tmp_path / "log"))
    job.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.05)
    job.kill()
    job.join()
    make_slowly(tmp_path / "c", tmp_path / "log")
    assert (tmp_path / "log").read_text().split() == ["made", "made"]


def test_a_failed_maker_leaves_nothing(tmp_path):
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            cache.make("kind", {"a": 1}, fail)
    assert list((tmp_path / "kind").iterdir()) == []


def test_what_is_trained_in_many_steps_is_claimed_meanwhile(tmp_path):
    base = Cache(tmp_path).artefact(identify("base"))
    with base.claimed():
        assert base.found() is None
        folder = base.make(lambda place: (place / "w").write_text("w"))
    assert base.found() == folder and (folder / "w").read_text() == "w"


def test_an_artefact_knows_the_runs_that_used_it(tmp_path):
    for user in ("/runs/one", "/runs/two", "/runs/one"):
        Cache(tmp_path, user=user).make("kind", {"a": 1}, lambda place: None)
    folder = Cache(tmp_path).folder("kind", {"a": 1})
    assert (folder / ".used-by").read_text().split() == ["/runs/one", "/runs/two"]


def make_as_nobody(root: Path, found: "multiprocessing.Queue[str]") -> None:
    os.setgid(65534)
    os.setuid(65534)
    cache = Cache(root)
    found.put(str(cache.make("kind", {"a": 1}, lambda place: None).name))
    try:
        cache.make("kind", {"a": 2}, lambda place: None)
    except Exception as error:
        found.put(f"{type(error).__name__}: {error}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_cache_is_read_and_never_written(tmp_path):
    root = Path("/var/tmp") / f"clk-test-{os.getpid()}"
    try:
        made = Cache(root).make("kind", {"a": 1}, lambda place: None)
        context = multiprocessing.get_context("fork")
        found = context.Queue()
        job = context.Process(target=make_as_nobody, args=(root, found))
        job.start()
        job.join(30)
        assert found.get() == made.name
        said = found.get()
        assert said.startswith("NotWritable") and "CLK_CACHE" in said and str(root) in said
    finally:
        shutil.rmtree(root)
