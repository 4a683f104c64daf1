"""The class-balanced memory: quotas, strides, eviction, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from cl_kernel import BadSetting
from cl_plugin_crumb.method import policies


def stream(policy: policies.Balanced, tasks: list[list[int]], size: int, seed: int = 0) -> list[int]:
    """Offer tasks of two classes each; the count of stored examples of each class at the end."""
    rng = np.random.default_rng(seed)
    seen: list[int] = []
    for classes in tasks:
        seen += classes
        labels = rng.permutation(np.repeat(classes, 600))
        policy.begin(seen, -(-len(labels) // size), size)
        for at in range(0, len(labels), size):
            policy.place(labels[at : at + size], rng)
            assert len(policy) <= policy.capacity
            if policy.full:
                break
    return [policy.counts().get(c, 0) for c in seen]


def test_quotas_follow_the_paper_s_example() -> None:
    """CORe50 with 417 examples: 208, 104, 69, 52 a class after tasks 1 to 4."""
    policy = policies.Balanced(417)
    for done, expected in enumerate((208, 104, 69, 52), 1):
        assert stream(policies.Balanced(417), [[2 * t, 2 * t + 1] for t in range(done)], 21) == [expected] * 2 * done
    assert policies.stride(58, 21, 417) == 2
    assert len(policy) == 0


def test_slots_are_unique_and_survive_a_round_trip() -> None:
    policy = policies.Balanced(50)
    stream(policy, [[0, 1], [2, 3], [4, 5]], 16)
    slots = policy.draw(1000, np.random.default_rng(0))
    assert len(set(slots.tolist())) == len(slots) == 48
    again = policies.Balanced(50)
    again.load(policy.state())
    assert again.counts() == policy.counts()
    a, b = np.random.default_rng(3), np.random.default_rng(3)
    np.testing.assert_array_equal(policy.place(np.array([5, 4, 6, 6]), a), again.place(np.array([5, 4, 6, 6]), b))
    np.testing.assert_array_equal(policy.balanced_draw([0, 3], 9, a)[0], again.balanced_draw([0, 3], 9, b)[0])


def test_replay_is_balanced_over_the_classes_asked_for() -> None:
    policy = policies.Balanced(60)
    stream(policy, [[0, 1], [2, 3]], 16)
    slots, labels = policy.balanced_draw([3, 0], 21, np.random.default_rng(0))
    assert labels.tolist() == [3, 0] * 11
    for c in (0, 3):
        assert set(slots[labels == c]) <= set(policy.store.rows[c])


def test_a_memory_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(BadSetting, match="smaller than the 4 classes"):
        policies.Balanced(3).begin([0, 1, 2, 3], 5, 10)


def test_a_memory_without_room_is_refused() -> None:
    with pytest.raises(BadSetting, match="0 examples"):
        policies.stride(5, 10, 0)


def test_the_learner_s_choice_is_obeyed() -> None:
    policy = policies.Chosen(5)
    rng = np.random.default_rng(0)
    assert policy.place(np.array([1, 1, 2]), rng).tolist() == [0, 1, 2]
    policy.drop(np.array([1]))
    assert policy.place(np.array([3, 3, 3, 3]), rng).tolist() == [1, 3, 4, -1]
    assert policy.counts() == {1: 1, 2: 1, 3: 3}
    assert policy.of(3).tolist() == [1, 3, 4]


def test_moments_match_the_whole() -> None:
    values = np.random.default_rng(0).normal(size=(20, 3, 2))
    moments = policies.Moments()
    moments.add(values[:7])
    moments.add(values[7:])
    np.testing.assert_allclose(moments.mean, values.mean(0))
    np.testing.assert_allclose(moments.variance, values.var(0))
    np.testing.assert_allclose(moments.draw(np.zeros((3, 2))), values.mean(0))
