"""The conformance kit passes a sound plugin, frozen at contract 1, and finds faults planted in it one at a time."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cl_kernel.errors import UnknownName
from cl_kernel.manager import discover
from cl_kernel.testing import CHECKS, PluginContract, check_plugin

SPEC1 = Path(__file__).parent / "spec1"


@pytest.fixture(scope="module")
def spec1_installed() -> Iterator[None]:
    """The frozen plugin on the import path, as pip would have put it there."""
    sys.path.insert(0, str(SPEC1))
    importlib.invalidate_caches()
    yield
    sys.path.remove(str(SPEC1))


@pytest.mark.usefixtures("spec1_installed")
class TestSpec1(PluginContract):
    """A plugin written against contract 1 passes the kit of every later kernel."""

    plugin = "spec1"


def test_the_frozen_plugin_is_frozen() -> None:
    files = sorted(path for path in SPEC1.rglob("*") if path.is_file() and path.suffix != ".pyc")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(SPEC1).as_posix().encode() + path.read_bytes())
    assert digest.hexdigest()[:16] == "d0ad2ee9dda1a8b4", (
        "a plugin of contract 1 works for ever: mend the kernel, not this plugin"
    )


def test_the_kit_has_at_least_thirty_named_and_described_checks() -> None:
    assert len(CHECKS) >= 30
    assert all((function.__doc__ or "").strip() for function in CHECKS.values())


def test_an_unknown_check_suggests_the_nearest(spec1_installed: None) -> None:
    with pytest.raises(UnknownName, match="did you mean policies_resume"):
        check_plugin("spec1", only=["policies_resum"])


def test_an_exempted_check_passes_with_its_reason(spec1_installed: None) -> None:
    outcome = check_plugin("spec1", only=["loads_light"], exempt={"loads_light": "because"})[0]
    assert outcome.passed
    assert outcome.message == "exempt: because"


def test_an_absent_plugin_fails_to_load_and_nothing_else_is_claimed() -> None:
    outcomes = check_plugin("nosuch", only=["loads", "policies_resume"])
    assert [o.passed for o in outcomes] == [False, True]
    assert not outcomes[1].applies


# ---- planted faults -------------------------------------------------------------------------------
# name: (check that must find it, file, text, replacement)
Fault = tuple[str, str, str, str]
LEARN_STEP = '                ctx.step(epoch=self.at["epoch"])\n'
FAULTS: dict[str, Fault] = {
    # what it says
    "misspelt hook": ("loads", "plugin", "def clk_learners", "def clk_learner"),
    "hook without marker": ("loads", "plugin", "@hookimpl\ndef clk_metrics", "def clk_metrics"),
    "hook with an unknown argument": ("loads", "plugin", "def clk_event(event)", "def clk_event(evnt)"),
    "hook is a generator": ("loads", "plugin", "    return [Command(", "    yield from [Command("),
    "record of another kind": ("loads", "plugin", "return [Tracker(", "return [Command("),
    "two records of one name": ("loads", "plugin", 'name="rows",\n            summary="rows from', 'name="rings",\n            summary="rows from'),
    "newer contract": ("loads", "plugin", "spec=1", "spec=99"),
    "raises on import": ("loads", "plugin", "HEARD = []", "HEARD = [][0]"),
    "exits on import": ("loads", "plugin", "HEARD = []", "raise SystemExit(3)"),
    "build string without a colon": ("loads", "plugin", "pieces:build_table", "pieces.build_table"),
    "other name than the entry point": ("says_who_it_is", "plugin", 'Plugin(name="NAME"', 'Plugin(name="other"'),
    "no summary of itself": ("says_who_it_is", "plugin", 'summary="frozen at contract 1"', 'summary=""'),
    "imports numpy at discovery": ("loads_light", "plugin", "HEARD = []", "import numpy\n\nHEARD = []"),
    "imports torch at discovery": ("loads_light", "settings", "from attrs", "import torch\nfrom attrs"),
    "changes the environment": ("loads_without_side_effects", "plugin", "HEARD = []", "import os\n\nos.environ['X_CLK'] = '1'\nHEARD = []"),
    "changes the working directory": ("loads_without_side_effects", "plugin", "HEARD = []", "import os\n\nos.chdir('/')\nHEARD = []"),
    "prints on import": ("loads_without_side_effects", "plugin", "HEARD = []", "print('hello')\nHEARD = []"),
    "imports a kernel module": ("imports_public_names_only", "pieces", "import numpy as np", "import numpy as np\nfrom cl_kernel.outputs import RunFolder"),
    "imports a name that is not public": ("imports_public_names_only", "pieces", "import numpy as np", "import numpy as np\nfrom cl_kernel import _PUBLIC"),
    "hooks that change": ("hooks_are_pure", "plugin", 'summary="a line an event"', 'summary=f"line {HEARD.append(1) or len(HEARD)}"'),
    "target that does not exist": ("targets_resolve", "plugin", "pieces:build_echo", "pieces:build_ecco"),
    "factory with too few arguments": ("targets_resolve", "pieces", "def build_newest(settings, capacity)", "def build_newest(capacity)"),
    "factory with too many arguments": ("targets_resolve", "pieces", "def build_hits(settings, stream)", "def build_hits(settings, stream, k)"),
    "run that takes no settings": ("targets_resolve", "pieces", "def run_count(ctx, settings)", "def run_count(ctx)"),
    "record without summary": ("records_are_described", "plugin", 'summary="a matrix"', 'summary=" "'),
    "alias of two tests": ("tests_have_distinct_names", "plugin", 'aliases=("3x2",)', 'aliases=("count",)'),
    "two default tests": ("tests_have_distinct_names", "plugin", 'name="COUNT", summary', 'name="COUNT", default=True, summary'),
    "settings that can be changed": ("settings_are_frozen_and_documented", "settings", "@frozen(kw_only=True)\nclass Rings", "@define(kw_only=True)\nclass Rings"),
    "setting without meaning": ("settings_are_frozen_and_documented", "settings", 'default=5, metadata=doc("how far to count")', "default=5"),
    "setting without default": ("settings_are_frozen_and_documented", "settings", "default=0.4, metadata", "metadata"),
    "setting that is no plain value": ("settings_survive_yaml", "settings", "n_epochs: int = field(default=2", "n_epochs: object = field(default=object()"),
    "profile with an unknown setting": ("profiles_name_settings", "plugin", '{"tiny": {"n_train": 24}}', '{"tiny": {"n_trian": 24}}'),
    "profile with a wrong value": ("profiles_name_settings", "plugin", '{"tiny": {"n_train": 24}}', '{"tiny": {"n_train": "many"}}'),
    "argument that is no setting": ("profiles_name_settings", "plugin", 'argument="n_classes"', 'argument="classes"'),
    "framework that is not required": ("frameworks_are_required", "plugin", 'framework="numpy"', 'framework="torch"'),
    "test with an unknown piece": ("tests_can_be_planned", "plugin", '"learner": "softmax"', '"learner": "softmin"'),
    "comparison with an unknown setting": ("tests_can_be_planned", "plugin", '"naive": {"replay": "none"}', '"naive": {"learner.rl": 1}'),
    "profile of a test with an unknown setting": ("tests_can_be_planned", "plugin", '"dataset.n_train": 500', '"dataset.n_trains": 500'),
    "default test that needs data": ("the_default_test_needs_nothing", "plugin", 'argument="n_classes"', 'argument="n_classes", needs=(ROWS,)'),
    "figure from nowhere": ("published_figures_say_where", "plugin", 'where="table 1"', 'where=""'),
    "figure beside a stand-in": ("published_figures_say_where", "plugin", 'where="table 1"', 'where="table 1", profile="tiny"'),
    "asset from nowhere": ("assets_say_how_to_get_them", "plugin", 'origin="https://example.org/rows"', 'origin=""'),
    "claims every asset": ("unknown_assets_are_left_to_others", "plugin", '        return None\n    return next(', '        return roots[0]\n    return next('),
    "command without handler": ("commands_explain_themselves", "pieces", "    return handle\n", "    return None\n"),
    "README that forgets a test": ("the_readme_names_every_test", "METADATA", "`COUNT`", "another"),
    # its data
    "stream without fingerprint": ("the_stream_is_sound", "pieces", "fingerprint=fingerprint(train.arrays[\"vector\"], test.arrays[\"vector\"])", 'fingerprint=""'),
    "split that drops a class": ("the_stream_is_sound", "pieces", "[k - 2 * (k // 2 - 1)]", "[k - 2 * (k // 2 - 1) - 1]"),
    "record of another task": ("the_stream_is_the_declared_task", "pieces", 'task="vector -> class"', 'task="image -> class"'),
    "labels of another stage": ("stages_bring_the_declared_classes", "pieces", "return class_incremental(", "return mixed_up("),
    "other dtype than declared": ("samples_fit_their_fields", "pieces", "points.astype(np.float32)", "points"),
    "labels beyond the declared number": ("samples_fit_their_fields", "pieces", 'kind="class", n=k)', 'kind="class", n=k - 1)'),
    "take that sorts its rows": ("take_follows_rows_and_fields", "pieces", "return ArraySamples(spec", "return Sorting(spec"),
    "take that ignores the fields": ("take_follows_rows_and_fields", "pieces", "return ArraySamples(spec", "return Everything(spec"),
    "take that augments": ("take_gives_the_same_again", "pieces", "return ArraySamples(spec", "return Noisy(spec"),
    "take that gives views": ("batches_are_copies", "pieces", "return ArraySamples(spec", "return Views(spec"),
    "stream drawn from chance": ("the_stream_depends_on_seed_and_settings_alone", "pieces", 'rng = site.rng("rings")', "rng = np.random.default_rng()"),
    "test data in training": ("no_test_sample_is_trained_on", "pieces", "train, test = draw(settings.n_train), draw(settings.n_test)", "train = test = draw(settings.n_train)"),
    # its pieces
    "policy over capacity": ("policies_keep_within_capacity", "pieces", "% self.capacity", "% (self.capacity + 1)"),
    "policy that miscounts": ("policies_keep_within_capacity", "pieces", "return min(self.seen, self.capacity)", "return self.seen"),
    "policy that depends on batching": ("policies_do_not_depend_on_batching", "pieces", "        for slot, group in zip", "        if len(groups) > 1:\n            slots = slots[rng.permutation(len(slots))]\n        for slot, group in zip"),
    "draw with repeats": ("policies_draw_what_is_there", "pieces", "return rng.permutation(among)[:n]", "return rng.choice(among, n)"),
    "draw that ignores groups": ("policies_draw_what_is_there", "pieces", "if groups is not None:", "if groups is None:"),
    "policy that forgets where it was": ("policies_resume", "pieces", 'return {"seen": self.seen, "groups"', 'return {"seen": 0, "groups"'),
    "policy state that cannot be saved": ("policies_resume", "pieces", 'return {"seen": self.seen, "groups"', 'return {"seen": self, "groups"'),
    "codec that understates bytes": ("codecs_keep_what_they_say", "pieces", "return sum(field.nbytes for field in self.fields.values())", "return 4"),
    "codec that drops a field": ("codecs_keep_what_they_say", "pieces", "return dict(stored)", 'return {"class": stored["class"]}'),
    "metric that changes its state": ("metrics_are_pure_and_add_up", "pieces", '        return {"n": state["n"] + len(target), "counted": state["counted"] + counted}', '        state["n"] += len(target)\n        state["counted"] += counted\n        return state'),
    "metric that averages batches": ("metrics_are_pure_and_add_up", "pieces", '        return {"n": state["n"] + len(target), "counted": state["counted"] + counted}', '        return {"n": 1, "counted": counted / max(len(target), 1)}'),
    "metric in percent": ("metrics_are_pure_and_add_up", "pieces", 'state["counted"] / state["n"]', '100 * state["counted"] / state["n"]'),
    "metric upside down": ("metrics_prefer_right_answers", "plugin", "higher_is_better=False", "higher_is_better=True"),
    # its runs
    "raises in training": ("the_default_test_runs", "pieces", "        size = self.settings.batch_size\n", "        size = self.settings.batch_size\n        assert stage.index < 2\n"),
    "file in the working directory": ("runs_write_their_folder_only", "pieces", '        ctx.phase("train")\n', '        ctx.phase("train")\n        open("log.txt", "w").close()\n'),
    "prints": ("runs_print_nothing", "pieces", '        ctx.phase("train")\n', '        ctx.phase("train")\n        print(stage.name)\n'),
    "seeds globally": ("runs_leave_global_generators_alone", "pieces", '        ctx.phase("train")\n', '        ctx.phase("train")\n        np.random.seed(0)\n'),
    "metric without values": ("every_test_set_is_scored", "pieces", 'if state["n"] else None}', 'if state["n"] > 50 else None}'),
    "score out of range": ("scores_lie_in_range", "pieces", 'state["counted"] / state["n"]', '100 * state["counted"] / state["n"]'),
    "never learns": ("learning_shows", "pieces", "self.weights = self.weights - self.settings.lr *", "self.weights = self.weights - 0 *"),
    "never calls step": ("every_stage_takes_steps", "pieces", LEARN_STEP, ""),
    "trains on test samples": ("training_reads_no_test_data", "pieces", LEARN_STEP, "                self.spied = STREAM[0].test.take(rows[:1])\n" + LEARN_STEP),
    "reads later stages": ("training_reads_no_later_stage", "pieces", LEARN_STEP, "                self.spied = ctx.stages[-1].train.take(rows[:1])\n" + LEARN_STEP),
    "memory over capacity": ("memories_keep_within_capacity", "pieces", "return min(self.seen, self.capacity)", "return self.seen"),
    "memory that takes more bytes than it says": ("memories_give_back_what_they_took", "pieces", "np.zeros((capacity, *field.shape), field.dtype)", "np.zeros((capacity + 3, *field.shape), field.dtype)"),
    "random from the clock": ("same_seed_same_results", "pieces", 'parts.site.rng("softmax"))', "np.random.default_rng())"),
    "depends on hashing": ("same_seed_same_results", "pieces", 'return 0.01 * site.rng("table")', 'return (1 + hash("a") % 97) * 0.01 * site.rng("table")'),
    "ignores the seed": ("another_seed_other_results", "pieces", "site.rng(", "np.random.default_rng(0) if 1 else ("),
    "forgets its generator": ("resumed_runs_equal_uninterrupted_ones", "pieces", '        self.rng.bit_generator.state = state["rng"]\n', ""),
    "forgets its position": ("resumed_runs_equal_uninterrupted_ones", "pieces", 'dict(state["at"])', '{**state["at"], "step": 0}'),
    "forgets its memory": ("resumed_runs_equal_uninterrupted_ones", "pieces", '            self.memory.load(state["memory"])', "            pass"),
    "state that aliases the weights": ("states_are_copies", "pieces", "self.weights = self.weights - self.settings.lr *", "self.weights -= self.settings.lr *"),
    "state with objects": ("states_survive_a_checkpoint", "pieces", '"at": dict(self.at),', '"at": dict(self.at), "settings": self.settings,'),
    "state that loads otherwise": ("states_survive_a_checkpoint", "pieces", 'self.weights, self.at = state["weights"].copy()', 'self.weights, self.at = state["weights"] + 1e-9'),
    "predicting draws": ("predicting_changes_nothing", "pieces", "            rows = np.arange(at, min(at + 50, len(samples)))\n            yield", "            rows = np.arange(at, min(at + 50, len(samples)))\n            self.rng.random()\n            yield"),
    "predictions that learn from the batch": ("predictions_follow_the_samples", "pieces", "return np.concatenate([vectors, np.ones((len(vectors), 1))], 1) @ self.weights", "return np.concatenate([vectors, np.arange(len(vectors))[:, None]], 1) @ self.weights"),
}  # fmt: skip
EXTRA = {
    "settings that can be changed": ("settings", "from attrs import field, frozen", "from attrs import define, field, frozen"),
    "state that aliases the weights": ("pieces", '"weights": self.weights.copy()', '"weights": self.weights'),
    "trains on test samples": ("pieces", "    fields = dict(parts.stream.spec)\n", "    fields = dict(parts.stream.spec)\n    STREAM[:] = [parts.stream]\n"),
}  # fmt: skip
HELPERS = """
import attrs

STREAM = []


def mixed_up(*args, **kwargs):
    stream = class_incremental(*args, **kwargs)
    a, b, *rest = stream.stages
    return attrs.evolve(stream, stages=[attrs.evolve(a, classes=b.classes), attrs.evolve(b, classes=a.classes), *rest])


class Sorting(ArraySamples):
    def take(self, rows, fields=None):
        return super().take(np.sort(rows), fields)


class Everything(ArraySamples):
    def take(self, rows, fields=None):
        return super().take(rows)


class Noisy(ArraySamples):
    def take(self, rows, fields=None):
        batch = super().take(rows, fields)
        if "vector" in batch:
            batch["vector"] += np.random.default_rng().standard_normal(batch["vector"].shape).astype(np.float32)
        return batch


class Views(ArraySamples):
    def take(self, rows, fields=None):
        step = rows[1] - rows[0] if len(rows) > 1 else 1
        if len(rows) and step and np.array_equal(rows, np.arange(rows[0], rows[0] + step * len(rows), step)):
            stop = rows[-1] + step
            part = slice(rows[0], None if stop < 0 else stop, step)
            return {name: self.arrays[name][part] for name in (fields or self.arrays)}
        return super().take(rows, fields)
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Copies the sound plugin under a name of its own and plants one fault in it."""
    made: list[str] = []

    def plant(fault: str) -> str:
        name = "fault" + hashlib.sha256(fault.encode()).hexdigest()[:8]
        package = f"clk_{name}"
        made.append(package)
        shutil.copytree(SPEC1 / "clk_spec1", tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(SPEC1 / "clk_spec1-1.0.dist-info", tmp_path / f"{package}-1.0.dist-info")
        files = {path.stem: path for path in (tmp_path / package).glob("*.py")}
        files |= {path.stem: path for path in (tmp_path / f"{package}-1.0.dist-info").iterdir()}
        for path in files.values():
            text = path.read_text().replace("clk_spec1", package).replace("clk-spec1", package)
            path.write_text(text.replace('name="spec1"', f'name="{name}"').replace("spec1 =", f"{name} ="))
        pieces = files["pieces"]
        head, rest = pieces.read_text().split("# ---- data sets\n")
        pieces.write_text(f"{head}{HELPERS}\n\n{rest}")
        _, file, text, replacement = FAULTS[fault] if fault in FAULTS else ("", "pieces", "", "")
        for file, text, replacement in [(file, text, replacement), *([EXTRA[fault]] if fault in EXTRA else [])]:
            source = files[file].read_text()
            text = text.replace("NAME", name)
            assert text in source, f"the fault {fault!r} has nothing to replace"
            files[file].write_text(source.replace(text, replacement))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        return name

    yield plant
    for module in [m for m in sys.modules if m.split(".")[0] in made]:
        del sys.modules[module]


def test_the_plugin_that_faults_are_planted_in_is_sound(planted: Callable[[str], str]) -> None:
    wrong = [outcome for outcome in check_plugin(planted("")) if not outcome.passed]
    assert wrong == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_by_the_check_made_for_it(fault: str, planted: Callable[[str], str]) -> None:
    expected = FAULTS[fault][0]
    (outcome,) = check_plugin(planted(fault), only=[expected])
    assert not outcome.passed, f"{expected} does not find the fault {fault!r}: {outcome.message}"
    assert outcome.message


def test_every_check_finds_a_planted_fault() -> None:
    proven = {fault[0] for fault in FAULTS.values()}
    assert set(CHECKS) - proven == {"the_run_folder_is_complete", "settings_refuse_wrong_types"}


def test_a_faulty_plugin_does_not_hide_the_sound_one(planted: Callable[[str], str], spec1_installed: None) -> None:
    name = planted("raises on import")
    registry = discover(only=["spec1", name])
    assert set(registry.owners) == {"clk", "spec1"}
    assert [owner.name for owner in registry.quarantine] == [name]
