"""The conformance kit passes a sound plugin, frozen at contract 1, and finds faults planted in it one at a time."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cl_kernel.contract.errors import UnknownName
from cl_kernel.registry import discover
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


def test_it_is_told_which_check_runs_and_which_failed(planted: Callable[[str], str]) -> None:
    told: list[str] = []
    check_plugin(planted("prints on import"), only=["loads", "loads_without_side_effects"], tell=told.append)
    assert told[:2] == ["1/2 loads", "2/2 loads_without_side_effects"]
    assert told[2].startswith("loads_without_side_effects FAILED: ")
    assert len(told) == 3


def test_an_exempted_check_passes_with_its_reason(spec1_installed: None) -> None:
    outcome = check_plugin("spec1", only=["loads_light"], exempt={"loads_light": "because"})[0]
    assert outcome.passed
    assert outcome.message == "exempt: because"


def test_an_absent_plugin_fails_to_load_and_nothing_else_is_claimed() -> None:
    outcomes = check_plugin("nosuch", only=["loads", "policies_resume"])
    assert [o.passed for o in outcomes] == [False, True]
    assert not outcomes[1].applies


# ---- planted faults -------------------------------------------------------------------------------
# planted_faults.yaml: check that must find it -> fault -> texts to replace in the sound plugin
FAULTS: dict[str, list[dict[str, str]]] = {}
FOUND_BY: dict[str, str] = {}
for _check, _faults in yaml.safe_load((Path(__file__).parent / "planted_faults.yaml").read_text()).items():
    FAULTS |= _faults
    FOUND_BY |= dict.fromkeys(_faults, _check)
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


class Deaf(ArraySamples):
    def identify(self, files, rows=None):
        return "as always"


class Disorderly(ArraySamples):
    def identify(self, files, rows=None):
        return super().identify(files, np.sort(np.arange(len(self)) if rows is None else rows))


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
        for change in FAULTS.get(fault, []):
            path = files[change["file"]]
            source, text = path.read_text(), change["text"].replace("NAME", name).replace("clk_spec1", package)
            assert text in source, f"the fault {fault!r} has nothing to replace"
            instead = change["instead"].replace("clk_spec1", package)
            path.write_text(source.replace(text, instead))
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
    expected = FOUND_BY[fault]
    (outcome,) = check_plugin(planted(fault), only=[expected])
    assert not outcome.passed, f"{expected} does not find the fault {fault!r}: {outcome.message}"
    assert outcome.message


def test_a_metric_that_only_describes_need_not_prefer_right_answers(planted: Callable[[str], str]) -> None:
    FAULTS["a metric that describes"] = [
        {"file": "plugin", "text": "higher_is_better=False", "instead": "higher_is_better=True, judges=False"}
    ]
    (outcome,) = check_plugin(planted("a metric that describes"), only=["metrics_prefer_right_answers"])
    assert outcome.passed
    assert outcome.applies, "the other metric still judges"


def test_every_check_finds_a_planted_fault() -> None:
    elsewhere = {"nothing_below_the_cut_changes"}  # its fault needs torch: tests/torch/test_frozen_check.py
    left = set(CHECKS) - set(FOUND_BY.values()) - elsewhere
    assert left == {"the_run_folder_is_complete", "settings_refuse_wrong_types"}


def test_a_faulty_plugin_does_not_hide_the_sound_one(planted: Callable[[str], str], spec1_installed: None) -> None:
    name = planted("raises on import")
    registry = discover(only=["spec1", name])
    assert set(registry.owners) == {"clk", "spec1"}
    assert [owner.name for owner in registry.quarantine] == [name]
