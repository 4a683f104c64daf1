"""Requests that once ran as something else than was asked: each does the right thing, or is refused before it runs.

Those that need training are tests of their plugins; here is what planning settles, by the command as it was typed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl_kernel.cli.main import main
from cl_kernel.registry import discover
from cl_kernel.running.plan import make_request, plan
from cl_kernel.storage.run_folder import new_folder, plain_name
from cl_kernel.sweeps.sweep import identity

RECALL = ("run", "--plugin", "recall", "--test", "ADD_ONE_FIVE_TIMES", "--dry-run")
REFUSED = {
    "gin that names another source of replay": ((*RECALL, "--gin-param", "replay_source = 'gan'"), "replay_source"),
    "gin that names another test": ((*RECALL, "--gin-param", "test_type = 'ADD_FIVE_AT_ONCE'"), "test_type"),
    "gin with a mean of its own": ((*RECALL, "--gin-param", "dataset_mean = [1.0, 2.0, 3.0]"), "dataset_mean"),
    "gin with another number of classes": ((*RECALL, "--gin-param", "n_classes = 11"), "n_classes"),
    "a gin binding of a scope": ((*RECALL, "--gin-param", "helper/TrainManager.lr = 0.5"), "scope"),
    "gin with an unclosed bracket": ((*RECALL, "--gin-param", "dataset_mean = [1.0, 2.0"), "gin cannot read this"),
    "a gin file that includes itself": ((*RECALL, "--gin-file", "self.gin"), "includes itself"),
    "gin files that include each other": ((*RECALL, "--gin-file", "one.gin"), "includes itself"),
    "gin that is no text": ((*RECALL, "--gin-file", "bytes.gin"), "bytes.gin"),
    "a penalty of a method without one": (
        ("run", "--plugin", "butd", "--learner", "butd:naive", "--set", "learner.strength=0.5", "--dry-run"),
        "learner.strength = 0.5 would have no effect",
    ),
    "momentum of Adam": (
        ("run", "--learner", "ewc", "--dataset", "digits", "--set", "learner.optimizer=adam", "--set",
         "learner.momentum=0.5", "--dry-run"),
        "read only with learner.optimizer = sgd",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLK_PLUGINS", raising=False)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "self.gin").write_text("include 'self.gin'\n")
    (tmp_path / "one.gin").write_text("include 'two.gin'\n")
    (tmp_path / "two.gin").write_text("include 'one.gin'\n")
    (tmp_path / "bytes.gin").write_bytes(b"\xff\xfe\x00lr")


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_have_been_something_else_is_refused_with_one_message(case, capsys, tmp_path):
    words, said = REFUSED[case]
    assert main(list(words)) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told, told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "pieces"),
    [
        (("--dataset", "digits", "--learner", "ewc", "--model", "mlp"), ["clk:digits", "clk:ewc", "clk:mlp"]),
        (("--dataset", "digits", "--learner", "naive"), ["clk:digits", "clk:naive", "clk:mlp"]),
        (("--plugin", "crumb", "--learner", "ewc"), ["crumb:ministream", "crumb:ewc", "crumb:tiny"]),
    ],
)
def test_short_names_mean_what_fits_with_all_plugins_installed(flags, pieces, capsys):
    assert main(["run", *flags, "--dry-run", "--no-comparisons", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["runs"][0]
    assert [run[kind] for kind in ("dataset", "learner", "model")] == pieces
    assert not Path("runs").exists()  # a dry run of one run is dry, with --all or without


@pytest.mark.parametrize("asked", [{"test": "iid/nap", "plugin": "clear"}, {"learner": "clk:ewc", "dataset": "digits"}])
def test_folders_of_runs_have_no_slash_and_no_colon(asked, tmp_path):
    planned = plan(discover(), make_request(asked.pop("test", ""), **asked))
    assert set(plain_name(planned.name)).isdisjoint("/:")
    assert set(new_folder(tmp_path, planned.name).name).isdisjoint("/:")


def test_the_statistics_of_crumbs_blocks_follow_the_cut():
    pieces = {"learner": "crumb:crumb", "dataset": "crumb:core50", "model": "crumb:squeezenet"}
    plans = [
        plan(discover(), make_request(**pieces, profile="paper", settings=more)) for more in ({}, {"model.cut": 3})
    ]
    codecs = [one.resolved.sections["codec"] for one in plans]
    assert [(codec.sigma, codec.sparsity) for codec in codecs] == [(None, None)] * 2, "left out: measured at the cut"


def test_the_tests_of_emnist_are_different_runs_on_toy_data_too():
    registry = discover()
    names = [
        o.record.name for o in registry.offers["test"] if o.plugin == "butd" and o.record.name.startswith("EMNIST")
    ]
    keys = {identity(plan(registry, make_request(name, plugin="butd"))) for name in names}
    settings = {repr(sorted(plan(registry, make_request(n, plugin="butd")).resolved.flat().items())) for n in names}
    assert len(names) > 1 and len(keys) == len(names) == len(settings)


def test_a_setting_that_a_comparison_run_lacks_stays_with_the_run_that_has_it(capsys):
    assert main(["run", "--plugin", "crumb", "--set", "learner.replay_coef=1", "--dry-run"]) == 0
    assert "fine-tuning" in capsys.readouterr().out
