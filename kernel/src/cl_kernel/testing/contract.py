"""Running the checks: as pytest tests of a plugin, or all at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from attrs import frozen

from cl_kernel.contract.errors import UnknownName
from cl_kernel.testing import (
    check_data,
    check_frozen,
    check_inputs,
    check_leaks,
    check_memories,
    check_offers,
    check_pieces,
    check_predictions,
    check_resuming,
    check_runs,
    check_seeds,
    check_settings,
    check_values,
)
from cl_kernel.testing.subject import CHECKS, Failed, NotApplicable, Subject

MODULES = (
    check_offers,
    check_data,
    check_inputs,
    check_pieces,
    check_runs,
    check_leaks,
    check_memories,
    check_seeds,
    check_predictions,
    check_frozen,
    check_resuming,
    check_settings,
    check_values,
)
ORDER = [module.__name__ for module in MODULES]
for _name, _ in sorted(CHECKS.items(), key=lambda item: ORDER.index(item[1].__module__)):
    CHECKS[_name] = CHECKS.pop(_name)  # what a plugin says comes before what it does

LENGTHY = (
    "each_setting_matters",
    "bad_values_are_refused",
    "every_learner_resumes_after_each_epoch",
    "nothing_below_the_cut_changes",
)
"""Checks that take minutes: a run for every setting, several for every learner."""


@frozen
class Outcome:
    """How a check ended; one that does not apply passes and says why in ``message``."""

    check: str
    passed: bool
    message: str = ""
    applies: bool = True


def run_check(name: str, subject: Subject) -> Outcome:
    """One check; an error in the plugin's code is a failure of the check that ran it."""
    function = CHECKS[name]
    try:
        said = function(subject)
    except NotApplicable as reason:
        return Outcome(name, True, f"does not apply: the plugin {reason}", False)
    except Failed as fault:
        return Outcome(name, False, str(fault))
    except Exception as error:
        return Outcome(name, False, f"{type(error).__name__}: {error}")
    return Outcome(name, True, said or (function.__doc__ or "").strip().splitlines()[0])


def check_plugin(
    plugin: str,
    *,
    only: Sequence[str] = (),
    test: str = "",
    settings: Mapping[str, Any] | None = None,
    exempt: Mapping[str, str] | None = None,
    time_limit_s: float = 120.0,
    pieces: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Run the kit on an installed plugin.

    :param only: names of checks; empty for all.
    :param exempt: check -> why this plugin need not pass it.
    :param pieces: short names of the pieces whose single settings are looked at; empty for all.
    :param tell: hears how far it is, before each check.
    :raises UnknownName: for a check that does not exist.
    """
    exempt = exempt or {}
    for name in (*only, *exempt):
        if name not in CHECKS:
            raise UnknownName.of("check", name, CHECKS)
    with tempfile.TemporaryDirectory(prefix="clk-check-") as folder:
        subject = Subject(plugin, Path(folder), test, settings or {}, time_limit_s, only=tuple(pieces))
        outcomes: list[Outcome] = []
        names = list(only or CHECKS)
        for at, name in enumerate(names, 1):
            tell(f"{at}/{len(names)} {name}{' (minutes for many learners)' if name in LENGTHY else ''}")
            spared = Outcome(name, True, f"exempt: {exempt[name]}", False) if name in exempt else None
            outcomes.append(spared or run_check(name, subject))
            if not outcomes[-1].passed:
                tell(f"{name} FAILED: {outcomes[-1].message}")
        return outcomes


class PluginContract:
    """The kit as pytest tests: subclass as ``TestContract`` and set ``plugin``.

    ``settings`` makes the runs short, ``exempt`` names checks with the reason why they need not pass, ``examples``
    adds to those of the records (short name of a data set -> function). ``pieces``: those whose single settings are
    looked at, empty for all. Checks that make a run for every setting carry the mark ``slow``.
    """

    plugin: str
    test: str = ""
    settings: ClassVar[Mapping[str, Any]] = {}
    exempt: ClassVar[Mapping[str, str]] = {}
    time_limit_s: float = 120.0
    examples: ClassVar[Mapping[str, Callable[[Path], Mapping[str, Any]]]] = {}
    pieces: ClassVar[tuple[str, ...]] = ()
    _subject: ClassVar[tuple[type, tempfile.TemporaryDirectory[str], Subject] | None] = None

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test a check."""
        if "check" in metafunc.fixturenames:
            import pytest

            marks = {name: (pytest.mark.slow,) if name in LENGTHY else () for name in CHECKS}
            metafunc.parametrize("check", [pytest.param(name, marks=mark, id=name) for name, mark in marks.items()])

    def test_contract(self, check: str, record_property: Callable[[str, object], None]) -> None:
        """A named check of the kit."""
        import pytest

        if check in self.exempt:
            pytest.skip(f"exempt: {self.exempt[check]}")
        outcome = run_check(check, self._of_class())
        record_property("saw", outcome.message)
        if not outcome.passed:
            pytest.fail(f"{check}: {outcome.message}", pytrace=False)
        if not outcome.applies:
            pytest.skip(outcome.message)

    @classmethod
    def _of_class(cls) -> Subject:
        if cls._subject is None or cls._subject[0] is not cls:
            folder = tempfile.TemporaryDirectory(prefix="clk-check-", ignore_cleanup_errors=True)
            subject = Subject(
                cls.plugin, Path(folder.name), cls.test, cls.settings, cls.time_limit_s, cls.examples, cls.pieces
            )
            cls._subject = (cls, folder, subject)
        return cls._subject[2]
