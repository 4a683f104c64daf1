"""``digits-er`` beside Avalanche: ``python bench/peers.py --avalanche PYTHON``.

PYTHON is the interpreter of an environment of its own with ``avalanche-lib==0.6.0`` and ``scikit-learn``:

    uv venv avalanche-venv && uv pip install -p avalanche-venv avalanche-lib==0.6.0 scikit-learn

Rounds alternate between this process (floor, bare loop, clk; see ``overhead.py``) and Avalanche's (its own floor on
exactly the batches it consumed, Avalanche without and with metrics), so both see the same state of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _report import machine, table, write
from overhead import REPEATS, bare, consumed, floor, repeated, whole_run

HERE = Path(__file__).parent
ROUNDS = 9


def ask(peer: subprocess.Popen[str], word: str = "") -> dict[str, Any]:
    """A line from Avalanche's process, after asking for a round."""
    assert peer.stdin is not None
    assert peer.stdout is not None
    if word:
        peer.stdin.write(word + "\n")
        peer.stdin.flush()
    line = peer.stdout.readline()
    if not line:
        raise SystemExit("the process of Avalanche ended; is avalanche-lib 0.6.0 in that environment?")
    answer: dict[str, Any] = json.loads(line)
    return answer


def main() -> None:
    """Measure, and store the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--avalanche", default=os.environ.get("CLK_AVALANCHE_PYTHON", ""), metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    namespace = parser.parse_args()
    if not namespace.avalanche:
        sys.stdout.write("peers: no interpreter with avalanche-lib given (--avalanche PYTHON); nothing measured\n")
        return
    torch.set_num_threads(1)
    stream = repeated(REPEATS)
    batches = consumed(stream, "stage")
    peer = subprocess.Popen(
        [namespace.avalanche, str(HERE / "_avalanche_er.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    about = ask(peer)
    ours: dict[str, list[float]] = {"floor": [], "bare": [], "clk": []}
    theirs: dict[str, list[float]] = {"floor": [], "avalanche, no metrics": [], "avalanche": []}
    with tempfile.TemporaryDirectory() as place:
        for number in range(namespace.rounds + 1):  # the first round warms up
            found = {
                "floor": floor(batches),
                "bare": bare(stream, False),
                "clk": whole_run(stream, "stage", Path(place)),
            }
            answer = ask(peer, "go")
            if number:
                for name, seconds in found.items():
                    ours[name].append(seconds)
                for name, seconds in answer.items():
                    theirs[name].append(seconds)
    assert peer.stdin is not None
    peer.stdin.close()
    peer.kill()
    peer.wait()

    words = {
        "floor": "forward, backward, step on the consumed batches",
        "bare": "replay written directly in torch, no evaluation, no log",
        "clk": "metrics, accuracy matrix, log, checkpoint",
        "avalanche, no metrics": "no metrics, no logger, no evaluation",
        "avalanche": "accuracy, loss, forgetting, text log, evaluation",
    }
    rows, results = [], {}
    for side, steps, own in ((ours, len(batches), "clk"), (theirs, about["steps"], "avalanche")):
        for name, seconds in side.items():
            over = statistics.median(a / b for a, b in zip(seconds, side["floor"], strict=True))
            ms = 1e3 * statistics.median(seconds) / steps
            title = f"{name} (of {own}'s batches)" if name == "floor" else name
            rows.append((title, words[name], steps, ms, over))
            results[title] = {"steps": steps, "ms_a_step": ms, "times_floor": over, "seconds": seconds}
    text = table(("who", "with", "steps", "ms a step", "times its floor"), rows)
    extra = results["clk"]["ms_a_step"] - results["floor (of clk's batches)"]["ms_a_step"]
    peers = results["avalanche"]["ms_a_step"] - results["floor (of avalanche's batches)"]["ms_a_step"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    note = (
        f"CPU time of one thread, medians of {namespace.rounds} alternating rounds, each ratio within a round. "
        f"Around the arithmetic clk spends {extra:.3f} ms a step, Avalanche {peers:.3f} ms. "
        f"Avalanche ran in an environment of its own "
        f"({versions}); its batches differ a little in number because its loader fills them differently."
    )
    write(
        "peers",
        "Experience replay beside Avalanche",
        {"cases": results, "avalanche": about},
        [text, note],
        about=machine("torch"),
    )


if __name__ == "__main__":
    main()
