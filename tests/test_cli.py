"""The command line as a user meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

MINE = """
    import numpy as np
    from cl_kernel import Metric, Replay, hookimpl


    @hookimpl
    def clk_replays():
        return [Replay(name="first-come", kind="policy", summary="the first ones stay", build=f"{__name__}:FirstCome")]


    @hookimpl
    def clk_metrics():
        return [Metric(name="wrong", summary="errors", build=f"{__name__}:build_wrong", higher_is_better=False)]


    class FirstCome:
        def __init__(self, settings, capacity):
            self.capacity, self.n = capacity, 0

        def place(self, groups, rng):
            slots = np.arange(self.n, self.n + len(groups))
            self.n = min(self.capacity, self.n + len(groups))
            return np.where(slots < self.capacity, slots, -1)

        def draw(self, n, rng, groups=None):
            return rng.permutation(self.n)[:n]

        def __len__(self):
            return self.n

        nbytes = 8

        def state(self):
            return {"n": self.n}

        def load(self, state):
            self.n = state["n"]


    class Wrong:
        def start(self):
            return [0, 0]

        def update(self, state, output, target):
            return [state[0] + int((output.argmax(1) != target).sum()), state[1] + len(target)]

        def merge(self, a, b):
            return [a[0] + b[0], a[1] + b[1]]

        def compute(self, state, stage=None):
            return {"wrong": state[0] / state[1] if state[1] else None}


    def build_wrong(settings, stream):
        return Wrong()
"""
RUN = ("run", "--learner", "linear", "--dataset", "blobs", "--set", "run.plots=false")


def test_a_plugin_of_one_file_adds_a_memory_and_a_metric(clk, tmp_path):
    clk.add_plugin("mine", MINE)
    clk(
        *RUN,
        "--replay",
        "mine:first-come",
        "--memory",
        "30",
        "--metric",
        "wrong",
        "--metric",
        "accuracy",
        "--output",
        "out",
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["cost"]["memory_examples"] == 30
    wrong, right = (metrics["metrics"][name]["matrix"] for name in ("wrong", "accuracy"))
    assert [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(wrong, right, strict=True)] == [[1.0] * 5] * 5


def test_a_plugin_that_raises_on_import_is_listed_and_the_others_run(clk):
    clk.add_plugin("broken", "raise RuntimeError('the license server is down')")
    clk.add_plugin("mine", MINE)
    listed = {row["name"]: row for row in clk.json("plugins")}
    assert listed["broken"]["status"] == "broken"
    assert "the license server is down" in listed["broken"]["reason"]
    assert listed["mine"]["status"] == "ok"
    clk(*RUN, "--replay", "first-come", "--output", "out")
    assert "the license server is down" in clk("run", "--plugin", "broken", code=2).stderr


def test_clk_plugins_restricts(clk):
    clk.add_plugin("mine", MINE)
    clk.add_plugin("other", MINE)
    assert [row["name"] for row in clk.json("plugins", CLK_PLUGINS="other")] == ["clk", "other"]


def test_clk_trace_shows_hook_calls(clk):
    clk.add_plugin("mine", MINE)
    assert "clk_event" in clk(*RUN, "--output", "out", CLK_TRACE="1").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("runn",), "unknown command 'runn'; did you mean run"),
        (("run",), "nothing to run"),
        (("run", "--plugin", "nobody"), "unknown plugin 'nobody'"),
        (("run", "--test", "NO_SUCH_TEST"), "unknown test 'NO_SUCH_TEST'"),
        (("run", "--learner", "linaer", "--dataset", "blobs"), "did you mean linear"),
        (("run", "--learner", "linear"), "no dataset chosen"),
        ((*RUN, "--model", "mlp"), "accepts no model"),
        ((*RUN, "--replay", "reservoir+ring"), "two pieces of kind policy"),
        ((*RUN, "--replay", "reservoir", "--memory", "0"), "memory '0'"),
        ((*RUN, "--replay", "reservoir", "--memory", "3 apples"), "apples"),
        ((*RUN, "--replay", "reservoir", "--memory", "1B"), "hold no example"),
        ((*RUN, "--metric", "miou"), "compares with 'mask'"),
        ((*RUN, "--set", "learner.lrr=1"), "did you mean learner.lr"),
        ((*RUN, "--set", "dataset.n_stages=3"), "do not divide into 3"),
        ((*RUN, "--data-root", "no/such/folder"), "is no folder"),
        ((*RUN, "--tracker", "nobody"), "unknown tracker"),
        (("show", "NO_SUCH_TEST"), "unknown test"),
        (("list", "modles"), "did you mean models"),
        (("metrics", "nowhere"), "is no run folder"),
        (("data", "prepare", "blobs"), "needs no preparation"),
        (("data", "prepare"), "no data set named"),
    ],
)
def test_what_a_user_can_do_wrong_is_one_message_and_exit_code_2(arguments, message, clk):
    result = clk(*arguments, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_place_that_cannot_be_is_named_like_other_mistakes(clk, tmp_path):
    (tmp_path / "file").write_text("")
    result = clk(*RUN, "--output", str(tmp_path / "file" / "run"), code=2)
    assert "not a directory" in result.stderr
    assert f"where: {tmp_path / 'file'}" in result.stderr
    assert "Traceback" not in result.stderr


def test_errors_are_machine_readable_too(clk):
    process = clk("run", "--plugin", "nobody", "--json", code=2)
    assert json.loads(process.stdout)["error"] == "UnknownName"


def test_a_bug_keeps_its_traceback(clk):
    clk.add_plugin("mine", MINE.replace("return [0, 0]", "return 1 / 0"))
    assert "ZeroDivisionError" in clk(*RUN, "--metric", "wrong", "--output", "out", code=1).stderr


def test_metrics_by_other_conventions_come_from_the_same_matrix(clk):
    clk(*RUN, "--output", "out")
    for convention in ("avalanche", "mammoth", "continuum", "pycil"):
        content = clk.json("metrics", "out", "--convention", convention)
        assert set(content) == {"metric", "matrix", "task_aware", "clk", convention}
        assert content[convention]
    assert "unknown convention" in clk("metrics", "out", "--convention", "sklearn", code=2).stderr


BESIDE = """
    from cl_kernel import Experiment, hookimpl


    @hookimpl
    def clk_experiments():
        small = {"dataset": "blobs", "learner": "linear", "run.plots": False}
        return [
            Experiment(
                name="bounded",
                summary="one run and its upper bound",
                settings=small,
                comparisons={"offline": {"learner.n_epochs": 8}},
            )
        ]
"""


def test_omega_stands_beside_the_matrix_when_there_is_an_upper_bound(clk, tmp_path):
    clk.add_plugin("mine", BESIDE)
    text = clk("run", "--plugin", "mine", "--test", "bounded", "--output", "out").stdout
    header, _, *rows = text[text.index("from the accuracy matrix") :].splitlines()[1:5]
    at = header.split().index("omega")
    shown = {row.split()[0]: float(row.split()[at + 1]) for row in rows}
    folders = {"linear": tmp_path / "out", "offline": tmp_path / "out" / "beside" / "offline"}
    seen = {
        name: [
            row["accuracy"] for row in json.loads((folder / "metrics.json").read_text())["metrics"]["accuracy"]["seen"]
        ]
        for name, folder in folders.items()
    }
    ratios = [a / b for a, b in zip(seen["linear"], seen["offline"], strict=True)]
    assert shown == {"linear": round(sum(ratios) / len(ratios), 3), "offline": 1.0}


def test_runs_lists_what_there_is(clk):
    assert "no runs below" in clk("runs").stdout
    clk(*RUN, "--output", "runs/a")
    assert [row["status"] for row in clk.json("runs")] == ["finished"]
    assert "finished" in clk("show", "runs/a").stdout


def test_show_prints_every_setting_with_its_origin(clk):
    content = clk.json("show", "--learner", "linear", "--dataset", "blobs", "--set", "lr=0.5")
    assert content["settings"]["learner.lr"] == {"value": 0.5, "from": "--set", "meaning": "learning rate of plain SGD"}
    assert content["settings"]["dataset.n_stages"]["from"] == "default"


def test_doctor_and_data_list_run_without_any_plugin(clk):
    assert any(row["plugin"] == "clk" for row in clk.json("doctor"))
    assert {row["name"] for row in clk.json("data", "list")} >= {"clk:blobs", "clk:digits"}


HEAVY = ("torch", "tensorflow", "gin", "tensorflow_hub", "faiss", "matplotlib", "sklearn")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("plugins",),
        ("list",),
        ("show", "ADD_ONE_FIVE_TIMES"),
        ("run", "--help"),
        ("doctor",),
        ("data", "list"),
    ],
)
def test_listing_needs_no_deep_learning_library(arguments, clk, blocked):
    clk(*arguments, CLK_PLUGINS="butd,clear,crumb,recall,remind", **blocked(*HEAVY))


def test_every_plugin_of_ours_is_found_and_sound(clk):
    listed = {row["name"]: row for row in clk.json("plugins", CLK_PLUGINS="butd,clear,crumb,recall,remind")}
    assert {name: row["status"] for name, row in listed.items()} == dict.fromkeys(
        ("clk", "butd", "clear", "crumb", "recall", "remind"), "ok"
    )


def test_help_imports_next_to_nothing():
    code = "import sys; from cl_kernel.cli.main import main; main(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.splitlines()[-1].split())
    assert loaded.isdisjoint({"numpy", "attr", "yaml", "pluggy", "rich", "importlib.metadata"})


def test_help_names_a_first_run_that_works_with_the_kernel_alone(clk, blocked) -> None:
    (line,) = re.findall(r"First run, .*: clk (.*)", clk("--help").stdout)
    clk(*line.split(), CLK_PLUGINS="", **blocked(*HEAVY))


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "cl_kernel", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: clk COMMAND")


def test_hints_name_packages_as_the_index_knows_them() -> None:
    from cl_kernel.running.plan import distribution

    assert [distribution(name) for name in ("sklearn", "PIL", "torch")] == ["scikit-learn", "pillow", "torch"]
