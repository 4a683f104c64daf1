"""What takes minutes: the method against fine-tuning on the stand-in, the full-size network, several devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cl_kernel import run


@pytest.mark.slow
@pytest.mark.parametrize("replay", ["gan", "flickr"])
def test_recall_keeps_what_fine_tuning_forgets(tmp_path: Path, replay: str) -> None:
    """One seed of the README's table: old classes 50 points and all classes 8 points above fine-tuning."""
    outcome = run("ADD_ONE_FIVE_TIMES", plugin="recall", replay=replay, output=tmp_path / "run")
    method = outcome.results["metrics"]["segmentation"]["seen"][-1]
    baseline = outcome.comparisons["fine-tuning"]["metrics"]["segmentation"]["seen"][-1]
    assert method["old"] >= baseline["old"] + 0.5
    assert method["all"] >= baseline["all"] + 0.08


@pytest.mark.slow
def test_the_paper_network_takes_a_step_at_full_size() -> None:
    """ResNet-101 at 321x321: features on a 41x41 grid, one incremental step that changes the decoder alone."""
    from cl_plugin_recall.backend import tf
    from cl_plugin_recall.data.tables import class_table
    from cl_plugin_recall.method import phases
    from cl_plugin_recall.network import resnet
    from cl_plugin_recall.network.decoder import Decoder
    from cl_plugin_recall.settings import Recall

    rng = np.random.default_rng(0)
    encoder = resnet.ResNet(resnet.ResNetSpec(), rng)
    decoder = Decoder(encoder.depth, 21, rng)
    x = tf.constant(rng.normal(0, 50, (1, 321, 321, 3)).astype(np.float32))
    y = tf.constant(rng.integers(0, 21, (1, 321, 321)).astype(np.uint8))
    assert encoder(x).shape == (1, 41, 41, 2048)
    for whole in (False, True):
        before = encoder.values() | decoder.values()
        loss = phases.TrainStep(encoder, decoder, class_table(range(21)), Recall(), whole=whole)(
            x, y, tf.constant(5e-4)
        )
        after = encoder.values() | decoder.values()
        assert np.isfinite(float(loss))
        assert sum(bool((before[n] != after[n]).any()) for n in before) == (8 + 104 + 208 if whole else 8)


TWO_DEVICES = """
import json, sys
import numpy as np
from cl_plugin_recall.method import phases
from cl_plugin_recall.network import resnet
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.backend import tf
from cl_plugin_recall.settings import Recall
from cl_plugin_recall.data.tables import class_table
from cl_plugin_recall.method.segmenter import replicas
import contextlib

n = int(sys.argv[1])
strategy = replicas(Recall(devices=n))
rng = np.random.default_rng(0)
with strategy.scope() if strategy else contextlib.nullcontext():
    encoder = resnet.ResNet(resnet.ResNetSpec(divisor=16, units=(1, 1, 1, 1)), rng)
    decoder = Decoder(encoder.depth, 21, rng)
    step = phases.TrainStep(encoder, decoder, class_table(range(16)), Recall(), whole=True, strategy=strategy)
losses = []
for k in range(3):
    x = tf.constant(rng.normal(0, 50, (4, 33, 33, 3)).astype(np.float32))
    y = tf.constant(rng.integers(0, 21, (4, 33, 33)).astype(np.uint8))
    losses.append(float(step(x, y, tf.constant(1e-3))))
total = {name: float(np.abs(value).sum()) for name, value in (encoder.values() | decoder.values()).items()}
json.dump({"losses": losses, "weights": total}, sys.stdout)
"""


def test_two_devices_give_what_one_gives() -> None:
    found = []
    for n in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", TWO_DEVICES, str(n)], env=os.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(done.stdout))
    np.testing.assert_allclose(found[1]["losses"], found[0]["losses"], rtol=1e-4)
    for name, value in found[0]["weights"].items():
        assert found[1]["weights"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
