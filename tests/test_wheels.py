"""Built wheels in an empty environment: one plugin, nothing of the others."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UV = next((str(p) for p in (ROOT / ".uv" / "bin" / "uv", shutil.which("uv")) if p and Path(p).exists()), None)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(UV is None, reason="needs uv: make setup")]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--quiet", "--all-packages", "--wheel", "--out-dir", folder], cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("plugin", ["butd", "clear", "crumb", "recall", "remind"])
def test_one_plugin_alone_runs_its_default_test(plugin, wheels, tmp_path):
    environment = tmp_path / "venv"
    python = environment / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    wheel = next(wheels.glob(f"cl_plugin_{plugin}-*.whl"))
    kernel = next(wheels.glob("cl_kernel-*.whl"))
    limits = tmp_path / "constraints.txt"
    pins = ["torch==2.14.1", "torchvision==0.29.1", "tensorflow==2.21.0", "setuptools<81"]
    limits.write_text("\n".join(pins))
    install = [UV, "pip", "install", "--quiet", "--python", python, "-c", limits, "--find-links", wheels, kernel, wheel]
    subprocess.run(install, check=True)
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    own |= {"CLK_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    others = {"torch": "recall", "tensorflow": "torch plugins"}
    unwanted = "torch" if plugin == "recall" else "tensorflow"
    absent = subprocess.run([python, "-c", f"import {unwanted}"], capture_output=True, env=own)
    assert absent.returncode != 0, f"{unwanted} came along, though only {others[unwanted]} needs it"
    clk = environment / "bin" / "clk"
    listed = subprocess.run([clk, "plugins"], capture_output=True, text=True, env=own, check=True).stdout
    assert plugin in listed
    assert "broken" not in listed
    command = [clk, "run", "--plugin", plugin, "--no-comparisons", "--output", tmp_path / "run"]
    run = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_folder_of_images_becomes_a_table_and_a_figure_in_the_commands_of_the_page(wheels, tmp_path):
    image = pytest.importorskip("PIL.Image")
    commands = re.search(r"```sh skip\n(pip install .*?)```", (ROOT / "docs/install.md").read_text(), re.DOTALL)[1]
    install, *rest = (shlex.split(line) for line in commands.splitlines())
    assert len(rest) <= 3, "at most four commands in all"
    for k, name in enumerate(("ant", "bee", "cat", "dog", "elk", "fox")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = [(40 * k + i, 255 - 40 * k, (80 * k) % 255) if (x + i) % (k + 2) else (0, 0, 0) for x in range(64)]
            picture = image.new("RGB", (64, 48))
            picture.putdata(pixels * 48)
            picture.save(tmp_path / "photos" / name / f"{i}.jpg")
    environment = tmp_path / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    pins = tmp_path / "pins.txt"
    pins.write_text("torch==2.14.1\n")
    where = ["--quiet", "--python", environment / "bin" / "python", "-c", pins, "--find-links", wheels]
    subprocess.run([UV, "pip", *install[1:2], *where, *install[2:]], check=True)
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    own |= {"CLK_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": "", "PATH": f"{environment}/bin"}
    for words in rest:
        subprocess.run([environment / "bin" / words[0], *words[1:]], cwd=tmp_path, env=own, check=True)
    rows = (tmp_path / "table.tex").read_text().splitlines()
    assert [row.partition(" & 3 & ")[0].split()[0] for row in rows if " & 3 & " in row] == ["er", "fine-tuning", "slda"]
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
