"""The two checks of the kit that look at every setting and every file, on the kernel's own pieces."""

from __future__ import annotations

import pytest

from cl_kernel.contract.errors import BadSetting
from cl_kernel.registry import discover
from cl_kernel.running.effects import refuse_without_effect
from cl_kernel.running.plan import make_request, plan
from cl_kernel.testing import check_plugin


@pytest.mark.slow
def test_each_setting_of_the_kernels_pieces_matters(record_property):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    (outcome,) = check_plugin("clk", only=["each_setting_matters"], settings={"learner.epochs": 2})
    record_property("saw", outcome.message)
    assert outcome.passed, outcome.message


def test_each_input_byte_of_the_kernels_data_sets_matters():
    (outcome,) = check_plugin("clk", only=["each_input_byte_matters"])
    assert outcome.passed and "5 data sets: folder, arrays, vectors, module" in outcome.message, outcome.message


def asked(**more):
    return plan(discover(only=()), make_request(learner="clk:linear", dataset="clk:blobs", **more))


def test_a_setting_that_nothing_would_read_is_refused_naming_what_it_needs(clk):
    with pytest.raises(BadSetting, match=r"learner\.n_replayed = 5 would have no effect.*with a memory"):
        refuse_without_effect(asked(settings={"learner.n_replayed": 5}))
    refuse_without_effect(asked(settings={"learner.n_replayed": 5}, replay="clk:ring"))
    refuse_without_effect(asked(settings={"learner.n_replayed": 16}))
    said = clk("run", "--learner", "linear", "--dataset", "blobs", "--set", "learner.n_replayed=5", code=2)
    assert "learner.n_replayed" in said.stderr and "--set" in said.stderr
    clk("run", "--learner", "linear", "--dataset", "blobs", "--set", "learner.n_replayed=5", "--dry-run", code=2)
