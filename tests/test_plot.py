"""``clk plot``: figures for a paper, read in grey and by colour-blind readers; what does not compare is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from cl_kernel.contract.errors import BadSetting, RunConflict
from cl_kernel.reports import compare, plot

pytest.importorskip("matplotlib")
# Full loss of one kind of cones, linear RGB: Machado, Oliveira and Fernandes (2009), table for severity 1.0
SIGHT = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
# Oklab of Ottosson (2020)
TO_CONES = np.array(
    [[0.41222147, 0.53633254, 0.05144599], [0.2119035, 0.68069955, 0.10739696], [0.0883024619, 0.2817188, 0.62997870]]
)
TO_LAB = np.array(
    [[0.21045426, 0.79361779, -0.00407205], [1.9779985, -2.42859221, 0.45059371], [0.02590404, 0.78277177, -0.80867577]]
)


def oklab(colour: str, sight: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(SIGHT[sight]) @ linear, 0, 1)
    return TO_LAB @ np.cbrt(TO_CONES @ seen)


@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_colours_stay_apart(sight: str) -> None:
    for a, b in itertools.combinations(plot.PALETTE, 2):
        assert np.linalg.norm(oklab(a, sight) - oklab(b, sight)) > 0.15, (a, b)


def test_methods_differ_without_colour() -> None:
    looks = [(plot.look(k)["marker"], str(plot.look(k)["linestyle"])) for k in range(24)]
    assert len(set(looks[: len(plot.MARKERS)])) == len(plot.MARKERS)
    assert len({plot.look(k)["marker"] for k in range(12)}) == 12
    whole = [(plot.look(k)["color"], *look) for k, look in enumerate(looks)]
    assert len(set(map(str, whole))) == len(whole)


def groups_of(folder: Path) -> list[compare.Group]:
    return compare.group_runs(compare.find_runs([folder])[0])


@pytest.mark.parametrize("kind", plot.KINDS)
@pytest.mark.parametrize("suffix", plot.FORMATS)
def test_every_kind_is_drawn_in_every_format(kind: str, suffix: str, finished_runs: Path, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{suffix}"
    plot.draw(groups_of(finished_runs), kind, path, width=plot.width_of("single"))
    content = path.read_bytes()
    assert content.startswith({"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[suffix])
    again = tmp_path / f"again.{suffix}"
    plot.draw(groups_of(finished_runs), kind, again, width=plot.width_of("single"))
    assert again.read_bytes() == content, "equal runs give equal files"


def test_a_pdf_has_the_width_of_a_column_and_its_fonts_inside(finished_runs: Path, tmp_path: Path) -> None:
    plot.draw(groups_of(finished_runs), "curves", tmp_path / "f.pdf", width=plot.width_of("single"))
    content = (tmp_path / "f.pdf").read_bytes()
    box = content.partition(b"/MediaBox [")[2].partition(b"]")[0].split()
    assert float(box[2]) == pytest.approx(72 * 3.35, abs=0.5)
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_the_command_writes_the_figure_and_says_where(finished_runs: Path, clk) -> None:
    done = clk("plot", str(finished_runs), "--kind", "forgetting", "--format", "svg", "--json")
    assert json.loads(done.stdout)["methods"][0]["seeds"] == [0, 1, 2]
    assert (clk.folder / "forgetting.svg").exists()
    done = clk("plot", str(finished_runs), "--only", "nobody", code=2)
    assert "unknown row 'nobody'" in done.stderr


def test_runs_on_other_data_are_refused_with_what_differs(finished_runs: Path) -> None:
    one, other = groups_of(finished_runs)
    elsewhere = evolve(other, identity={**other.identity, "dataset.n_train": 7})
    with pytest.raises(RunConflict, match=r"do not compare: dataset.n_train is \d+ and 7"):
        plot.comparable_or_refuse([one, elsewhere], "curves")
    with pytest.raises(RunConflict, match="profile tiny and profile paper"):
        plot.comparable_or_refuse([one, evolve(other, profile="paper")], "curves")
    with pytest.raises(RunConflict, match="none of these runs keeps a memory"):
        plot.comparable_or_refuse([one], "bytes")


def test_widths_are_columns_or_inches() -> None:
    assert plot.width_of("double") == 6.9
    assert plot.width_of("4.5") == 4.5
    for text in ("wide", "0", "nan", "100"):
        with pytest.raises(BadSetting, match="--width"):
            plot.width_of(text)


def test_arms_are_called_as_the_sweep_file_calls_them(finished_runs: Path, tmp_path: Path) -> None:
    for name in ("none-0", "none-1", "kept-0"):
        if (finished_runs / name).exists():
            shutil.copytree(finished_runs / name, tmp_path / name)
            (tmp_path / name / "task.json").write_text(json.dumps({"arm": {"method": f"R & D {name[:4]}"}}))
    groups = groups_of(tmp_path)
    assert "R & D none" in [group.label for group in groups]
    header = ["run", "n", "score"]
    latex = compare.as_latex(header, compare.text_rows(groups, ["score"]))
    assert r"R \& D none" in latex
    assert compare.as_csv(groups, ["score"]).splitlines()[1].startswith("R & D")
