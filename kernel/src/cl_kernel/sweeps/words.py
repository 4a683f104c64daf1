"""A sweep said on the command line: ``clk sweep dataset=digits learner=er,slda seed=0,1,2``.

Values are YAML, separated by commas: one value is for all runs, several are varied. Beside a file they lie over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from attrs import evolve

from cl_kernel.contract.errors import BadSetting
from cl_kernel.sweeps.sweep import Spec, read_spec

WHERE = "clk sweep"


def read_words(words: Sequence[str], name: str = "") -> Spec:
    """The sweep that a file, or words ``KEY=VALUE[,VALUE...]``, or both make.

    :param name: names the sweep; empty: the file's, or ``sweep``.
    :raises BadSetting: for two files, a word that cannot be read, a key given twice, or nothing to vary.
    """
    files = [word for word in words if "=" not in word or Path(word).is_file()]
    if len(files) > 1:
        raise BadSetting(
            f"{files[0]} and {files[1]} are two files", where=WHERE, fix="one sweep file; words: KEY=VALUE"
        )
    spec = read_spec(Path(files[0])) if files else Spec(name="sweep")
    spec = _laid_over(spec, dict(_options([word for word in words if word not in files])))
    if not spec.grid and not spec.list:
        raise BadSetting("nothing to vary", where=WHERE, fix=f"{' '.join(words)} seed=0,1,2")
    return evolve(spec, name=name or spec.name)


def _options(words: Iterable[str]) -> Iterable[tuple[str, list[Any]]]:
    seen = set()
    for word in words:
        key, _, text = word.partition("=")
        if key in seen:
            raise BadSetting(f"{key} is given twice", where=WHERE, fix=f"{key}=VALUE,VALUE")
        seen.add(key)
        yield key, _values(word, text)


def _values(word: str, text: str) -> list[Any]:
    """Commas outside brackets and quotes separate values, as in a YAML list."""
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        values = None
    if not isinstance(values, list) or not values or word.startswith("="):
        raise BadSetting(
            f"{word!r} does not read KEY=VALUE[,VALUE...]", where=WHERE, fix="quote what is special: 'KEY=\"VALUE\"'"
        )
    return values


def _laid_over(spec: Spec, options: dict[str, list[Any]]) -> Spec:
    base, grid = dict(spec.base), dict(spec.grid)
    for key, values in options.items():
        _not_set_elsewhere(spec, key)
        base.pop(key, None)
        grid.pop(key, None)
        if len(values) == 1:
            base[key] = values[0]
        else:
            grid[key] = values
    return evolve(spec, base=base, grid=grid)


def _not_set_elsewhere(spec: Spec, key: str) -> None:
    """Refuse a word that a later part of the file would take back."""
    arms = [arm for options in spec.grid.values() if isinstance(options, dict) for arm in options.values()]
    if any(key in settings for settings in (*spec.list, *arms)):
        raise BadSetting(f"{key} is set by a list or a named arm of the file", where=WHERE, fix="mend it in the file")
