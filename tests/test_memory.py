"""Memories: never over capacity, a batch equals one at a time, state resumes exactly, draws are uniform."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cl_kernel.contract.errors import BadCheckpoint, BadSetting, Mismatch
from cl_kernel.contract.stream import Field
from cl_kernel.library.memories.policies import (
    BiasedReservoir,
    ClassBalanced,
    GreedyBalanced,
    LargestClass,
    Reservoir,
    Ring,
)
from cl_kernel.library.memories.raw import RawCodec
from cl_kernel.library.memories.slots import GroupTables, without_replacement
from cl_kernel.memory import Memory, build_memory, parse_capacity

POLICIES = {
    "reservoir": Reservoir,
    "ring": Ring,
    "class-balanced": ClassBalanced,
    "gdumb": GreedyBalanced,
    "largest-class": LargestClass,
    "largest-class-room-first": lambda n: LargestClass(n, newcomer_may_leave=False),
    "biased-0.3": lambda n: BiasedReservoir(n, alpha=0.3),
    "biased-3": lambda n: BiasedReservoir(n, alpha=3.0),
    "biased-dynamic": lambda n: BiasedReservoir(n, alpha=0.4, dynamic=True),
    "biased-never": lambda n: BiasedReservoir(n, alpha=0.0, dynamic=True),
}
FIELDS = {
    "image": Field(shape=(2, 3), dtype="float32", kind="image"),
    "class": Field(shape=(), dtype="int64", kind="class", n=9),
}


def batch_of(items: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": np.repeat(items, 6).reshape(-1, 2, 3).astype(np.float32), "class": groups}


def memory_of(name: str, capacity: int, seed: int = 0) -> Memory:
    return Memory(POLICIES[name](capacity), RawCodec(FIELDS), capacity, np.random.default_rng(seed))


def random_stream(seed: int, n: int, n_groups: int) -> np.ndarray:
    """Groups in an order that visits every case: runs of one group, then mixtures, uneven shares."""
    rng = np.random.default_rng(seed)
    runs = np.repeat(rng.integers(0, n_groups, n), rng.integers(1, 9, n))[: n // 2]
    mixed = np.minimum(rng.geometric(0.4, n - len(runs)) - 1, n_groups - 1)
    return np.concatenate([runs, mixed]) * 7 - 3  # ids need not be 0, 1, 2


def same_tree(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_tree(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("capacity", [1, 5, 40])
def test_a_batch_is_the_same_as_one_at_a_time(name: str, seed: int, capacity: int) -> None:
    groups = random_stream(seed, 240, 6)
    rng = np.random.default_rng(seed + 100)
    whole, single = memory_of(name, capacity, seed), memory_of(name, capacity, seed)
    at = 0
    while at < len(groups):
        n = int(rng.integers(0, 60))
        rows = np.arange(at, min(at + n, len(groups)))
        whole.add(batch_of(rows, groups[rows]), groups[rows])
        for row in rows:
            single.add(batch_of(row[None], groups[row : row + 1]), groups[row : row + 1])
        at += n
        if rng.random() < 0.5:  # draws in between, restricted ones included, must not tell the two apart
            wanted = None if rng.random() < 0.4 else rng.choice(groups, 2)
            assert np.array_equal(whole.draw(9, wanted), single.draw(9, wanted))
    assert same_tree(whole.state(), single.state())


@pytest.mark.parametrize("name", POLICIES)
def test_a_memory_holds_what_its_policy_says_and_never_more(name: str) -> None:
    groups, rng = random_stream(3, 400, 5), np.random.default_rng(0)
    memory, kept = memory_of(name, 30), {}
    nbytes = memory.nbytes
    for at in range(0, 400, 16):
        rows = np.arange(at, min(at + 16, 400))
        slots = memory.add(batch_of(rows, groups[rows]), groups[rows])
        kept.update({slot: row for slot, row in zip(slots.tolist(), rows.tolist(), strict=True) if slot >= 0})
        assert len(memory) == len(kept) <= 30
        assert sorted(kept) == list(range(len(memory)))
        assert memory.nbytes == nbytes == 30 * (24 + 8)
        assert memory.bytes_used == len(memory) * 32
        assert memory.policy.counts() == Counter(groups[list(kept.values())].tolist())
        drawn = memory.take(slots := memory.draw(int(rng.integers(1, 40))))
        assert len(set(slots.tolist())) == len(slots)
        assert drawn["image"][:, 0, 0].tolist() == [kept[s] for s in slots.tolist()]
        assert drawn["class"].tolist() == groups[[kept[s] for s in slots.tolist()]].tolist()
        for wanted in ([groups[at]], groups[at : at + 2], [99]):
            among = memory.sample(8, np.array(wanted))["class"]
            there = sum(memory.policy.counts().get(g, 0) for g in set(np.array(wanted).tolist()))
            assert set(among.tolist()) <= set(np.array(wanted).tolist())
            assert len(among) == min(8, there)


@pytest.mark.parametrize("name", POLICIES)
def test_a_loaded_memory_goes_on_like_the_saved_one(name: str) -> None:
    groups = random_stream(5, 300, 6)
    memory = memory_of(name, 25)
    for at in range(0, 150, 10):
        memory.add(batch_of(np.arange(at, at + 10), groups[at : at + 10]), groups[at : at + 10])
        if at % 30 == 0:
            memory.draw(5, groups[:1])
    state = memory.state()
    other = memory_of(name, 25, seed=77)
    other.load(state)
    for at in range(150, 300, 10):
        for m in (memory, other):
            m.add(batch_of(np.arange(at, at + 10), groups[at : at + 10]), groups[at : at + 10])
        assert np.array_equal(memory.draw(6, groups[at : at + 2]), other.draw(6, groups[at : at + 2]))
    assert same_tree(memory.state(), other.state())


def test_saving_does_not_change_what_follows() -> None:
    saved, plain = memory_of("reservoir", 12), memory_of("reservoir", 12)
    groups = random_stream(1, 100, 4)
    for at in range(0, 100, 5):
        for memory in (saved, plain):
            memory.add(batch_of(np.arange(at, at + 5), groups[at : at + 5]), groups[at : at + 5])
        saved.state()
        assert np.array_equal(saved.draw(4, groups[:2]), plain.draw(4, groups[:2]))


def share_kept(policy: object, groups: np.ndarray, runs: int) -> np.ndarray:
    """How often each example of a stream is in the memory at the end."""
    total = np.zeros(len(groups))
    for seed in range(runs):
        policy_now = policy()
        owner = np.full(policy_now.capacity, -1)
        for row, slot in enumerate(policy_now.place(groups, np.random.default_rng(seed)).tolist()):
            if slot >= 0:
                owner[slot] = row
        total[owner[owner >= 0]] += 1
    return total / runs


def test_a_reservoir_keeps_every_example_equally_often() -> None:
    share = share_kept(lambda: Reservoir(10), np.zeros(50, np.int64), 4000)
    assert share == pytest.approx(np.full(50, 0.2), abs=0.03)


def test_a_ring_keeps_the_newest() -> None:
    assert share_kept(lambda: Ring(10), np.zeros(53, np.int64), 1).tolist() == [0] * 43 + [1] * 10


def test_class_balanced_levels_groups_and_is_a_reservoir_inside_each() -> None:
    groups = np.repeat([4, 1, 2], [100, 50, 8])
    share = share_kept(lambda: ClassBalanced(24), groups, 3000)
    assert share[:100] == pytest.approx(np.full(100, 8 / 100), abs=0.025)
    assert share[100:150] == pytest.approx(np.full(50, 8 / 50), abs=0.03)
    assert share[150:] == pytest.approx(np.ones(8))


def test_class_balanced_keeps_a_rare_group_whole() -> None:
    rng = np.random.default_rng(0)
    groups = rng.choice([0, 1, 2], 600, p=[0.8, 0.19, 0.01])
    policy = ClassBalanced(40)
    policy.place(groups, rng)
    assert policy.counts()[2] == (groups == 2).sum()
    assert abs(policy.counts()[0] - policy.counts()[1]) <= 1


def test_gdumb_keeps_the_first_of_each_group() -> None:
    groups = np.tile([0, 1, 2, 3], 20)
    share = share_kept(lambda: GreedyBalanced(12), groups, 50)
    assert share.tolist() == [1.0] * 12 + [0.0] * 68
    late = GreedyBalanced(12)
    late.place(np.repeat([0, 1, 2], 30), np.random.default_rng(0))
    assert late.counts() == {0: 4, 1: 4, 2: 4}


def test_largest_class_evicts_where_there_is_most_and_ties_go_to_the_first_seen() -> None:
    policy, rng = LargestClass(6, newcomer_may_leave=False), np.random.default_rng(0)
    policy.place(np.array([5, 5, 5, 8, 8, 8]), rng)
    policy.place(np.array([9]), rng)
    assert policy.counts() == {5: 2, 8: 3, 9: 1}
    policy.place(np.array([9]), rng)
    assert policy.counts() == {5: 2, 8: 2, 9: 2}
    policy.place(np.array([8, 8]), rng)
    assert policy.counts() == {8: 3, 5: 1, 9: 2}


def test_the_newcomer_may_leave_at_once_when_its_group_is_the_largest() -> None:
    share = share_kept(lambda: LargestClass(4), np.zeros(5, np.int64), 4000)
    assert share == pytest.approx(np.full(5, 0.8), abs=0.03)
    room_first = share_kept(lambda: LargestClass(4, newcomer_may_leave=False), np.zeros(5, np.int64), 4000)
    assert room_first == pytest.approx([0.75] * 4 + [1.0], abs=0.03)


def naive_largest(groups: list[int], capacity: int, may_leave: bool) -> list[int]:
    """Counts after each newcomer by the rule as the paper's code words it (store, then evict; or the reverse)."""
    counts: dict[int, int] = {}
    sizes = []
    for group in groups:
        full = sum(counts.values()) >= capacity
        if full and not may_leave:
            counts[max(counts, key=lambda g: counts[g])] -= 1
        counts[group] = counts.get(group, 0) + 1
        if full and may_leave:
            counts[max(counts, key=lambda g: counts[g])] -= 1
        sizes.append(tuple(sorted((g, c) for g, c in counts.items() if c)))
    return sizes


@pytest.mark.parametrize("may_leave", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_largest_class_counts_follow_the_plain_rule(may_leave: bool, seed: int) -> None:
    groups = random_stream(seed, 300, 7)
    policy, rng = LargestClass(23, newcomer_may_leave=may_leave), np.random.default_rng(seed)
    got = []
    for group in groups.tolist():
        policy.place(np.array([group]), rng)
        got.append(tuple(sorted(policy.counts().items())))
    assert got == naive_largest(groups.tolist(), 23, may_leave)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("alpha", [0.25, 0.75, 1.0, 2.0])
def test_buckets_of_the_biased_reservoir_stay_as_often_as_the_formula_says(alpha: float, dynamic: bool) -> None:
    k, n_buckets, runs = 12, 5, 1500
    kept = np.zeros(n_buckets)
    for seed in range(runs):
        policy, rng = (BiasedReservoir(k, alpha=alpha, dynamic=dynamic, by_bucket=True), np.random.default_rng(seed))
        owner = np.full(k, -1)
        for bucket in range(n_buckets):
            slots = policy.place(np.full(k, bucket), rng)
            owner[slots[slots >= 0]] = bucket
            assert len(set(slots[slots >= 0].tolist())) == (slots >= 0).sum()
        kept += np.bincount(owner, minlength=n_buckets)
    p = [1.0, *(min(1.0, alpha if dynamic else alpha / i) for i in range(2, n_buckets + 1))]
    expected = [p[j] * np.prod([1 - p[t] for t in range(j + 1, n_buckets)]) for j in range(n_buckets)]
    assert kept / runs / k == pytest.approx(expected, abs=0.025)


def test_a_bucket_larger_than_the_memory_is_thinned() -> None:
    policy = BiasedReservoir(5, by_bucket=True)
    slots = policy.place(np.zeros(50, np.int64), np.random.default_rng(0))
    assert sorted(slots[slots >= 0].tolist()) == [0, 1, 2, 3, 4]


def test_alpha_one_is_the_plain_reservoir_and_other_alphas_prefer() -> None:
    zeros = np.zeros(60, np.int64)
    assert share_kept(lambda: BiasedReservoir(12), zeros, 3000) == pytest.approx(np.full(60, 0.2), abs=0.035)
    past = share_kept(lambda: BiasedReservoir(12, alpha=0.25), zeros, 500)
    present = share_kept(lambda: BiasedReservoir(12, alpha=4.0), zeros, 500)
    assert past[:12].mean() > 0.5 > past[-12:].mean()
    assert present[-12:].mean() > 0.5 > present[:12].mean()


@pytest.mark.parametrize(("n_all", "n"), [(10, 3), (10, 5), (10, 9), (10, 10), (10, 30), (1000, 40), (1, 1), (0, 4)])
def test_draws_have_no_repeats_and_every_number_alike(n_all: int, n: int) -> None:
    rng, hits = np.random.default_rng(0), np.zeros(n_all)
    first = np.zeros(n_all)
    for _ in range(2000):
        drawn = without_replacement(n_all, n, rng)
        assert len(drawn) == min(n, n_all) == len(set(drawn.tolist()))
        hits[drawn] += 1
        if n_all:
            first[drawn[0]] += 1
    assert hits / 2000 == pytest.approx(np.full(n_all, min(1.0, n / max(n_all, 1))), abs=0.05)
    assert first / 2000 == pytest.approx(np.full(n_all, 1 / max(n_all, 1)), abs=0.05)


def test_tables_follow_a_plain_dictionary_through_random_changes() -> None:
    rng, tables, plain = np.random.default_rng(0), GroupTables(64), {}
    for _ in range(4000):
        slot, group = int(rng.integers(64)), int(rng.integers(5))
        tables.remove(slot)
        if rng.random() < 0.7:
            tables.add(slot, tables.rank(group))
            plain[slot] = group
        else:
            plain.pop(slot, None)
        assert tables.counts() == Counter(plain.values())
        if plain:
            sizes = [Counter(plain.values())[g] for g in tables.ids]
            assert tables.largest() == sizes.index(max(sizes))
    for group in range(5):
        assert set(tables.draw(99, rng, [group]).tolist()) == {s for s, g in plain.items() if g == group}


def test_tables_of_groups_that_emptied_give_their_room_back() -> None:
    ring, rng = Ring(1000), np.random.default_rng(0)
    for group in range(30):
        ring.place(np.full(1000, group), rng)
        ring.draw(1, rng, np.array([group]))
        ring.place(np.full(200, group), rng)  # less than a quarter: worked in slot by slot
        ring.draw(1, rng, np.array([group]))
    balanced = LargestClass(1000)
    for group in range(30):
        balanced.place(np.full(1000, group), rng)
    assert ring.nbytes < 1000 * 8 * 8
    assert balanced.nbytes < 1000 * 8 * 16


@pytest.mark.parametrize(
    ("text", "examples", "nbytes"),
    [
        ("500", 500, None),
        (7, 7, None),
        ("10_000", 10000, None),
        ("64KiB", None, 65536),
        ("1.5MB", None, 1_500_000),
        ("0.29 mb", None, 290_000),
        ("2gib", None, 2**31),
        ("12B", None, 12),
        ("all", None, None),
    ],
)
def test_capacities_are_read(text: str | int, examples: int | None, nbytes: int | None) -> None:
    capacity = parse_capacity(text)
    assert (capacity.examples, capacity.nbytes) == (examples, nbytes)


@pytest.mark.parametrize("text", ["0", "0MB", "-5", "many", "5.5", "10 parsecs", "", "1e3", "MB", "0.1B"])
def test_what_is_no_capacity_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="--memory"):
        parse_capacity(text)


def test_bytes_become_as_many_slots_as_fit() -> None:
    codec, rng = RawCodec(FIELDS), np.random.default_rng(0)
    memory = build_memory(Reservoir, codec, "1000B", rng)
    assert memory.capacity == 1000 // 32
    assert memory.nbytes <= 1000
    assert build_memory(Reservoir, codec, "all", rng, n_examples=77).capacity == 77
    with pytest.raises(BadSetting, match="one takes 32 bytes"):
        build_memory(Reservoir, codec, "31B", rng)
    with pytest.raises(BadSetting, match="known length"):
        build_memory(Reservoir, codec, "all", rng)


class Liar(RawCodec):
    """States fewer bytes than it takes."""

    def bytes_per_example(self) -> int:
        return 1


def test_a_codec_that_understates_its_bytes_does_not_pass_the_budget() -> None:
    with pytest.raises(BadSetting, match="Liar states 1 bytes"):
        build_memory(Reservoir, Liar(FIELDS), "1000B", np.random.default_rng(0))


@pytest.mark.parametrize(
    "field",
    [
        Field(shape=(None, None, 3), dtype="uint8", kind="image"),
        Field(shape=(), dtype="object", kind="image", encoding="jpeg"),
    ],
)
def test_raw_refuses_what_has_no_fixed_size(field: Field) -> None:
    with pytest.raises(Mismatch, match="raw cannot keep the field 'image'"):
        RawCodec({"image": field})


def test_raw_refuses_what_would_lose_values() -> None:
    memory, zero = memory_of("ring", 4), np.zeros(1, np.int64)
    with pytest.raises(Mismatch, match="lacks the field 'class'"):
        memory.add({"image": np.zeros((1, 2, 3), np.float32)}, zero)
    with pytest.raises(Mismatch, match="keeps 'class' as int64"):
        memory.add({"image": np.zeros((1, 2, 3), np.float32), "class": np.array([0.5])}, zero)
    with pytest.raises(Mismatch, match=r"keeps 'image' as float32 \[2, 3\]"):
        memory.add({"image": np.zeros((1, 3, 2), np.float32), "class": zero}, zero)
    with pytest.raises(Mismatch, match="2 groups for fields of length"):
        memory.add(batch_of(zero, zero), np.zeros(2, np.int64))


def test_a_state_of_another_memory_is_refused() -> None:
    state = memory_of("ring", 4).state()
    with pytest.raises(BadCheckpoint, match="4 slots"):
        memory_of("ring", 5).load(state)


class Tensor:
    """As much of a device tensor as the kernel may use; ``numpy`` shares memory, as torch's does on the host."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    nbytes = property(lambda self: self._array.nbytes)
    detach = cpu = lambda self: self

    def numpy(self) -> np.ndarray:
        return self._array

    def new_tensor(self, rows: np.ndarray) -> Tensor:
        return Tensor(rows.astype(self._array.dtype))

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: object) -> Tensor:
        return Tensor(self._array[rows])

    def __setitem__(self, rows: object, values: Tensor) -> None:
        self._array[rows] = values._array


class OnDevice(RawCodec):
    """Keeps its slots as tensors."""

    def allocate(self, capacity: int) -> dict[str, Tensor]:
        return {name: Tensor(array) for name, array in super().allocate(capacity).items()}

    def encode(self, batch: dict) -> dict[str, Tensor]:
        return {name: Tensor(np.asarray(batch[name])) for name in self.fields}


def test_slots_may_be_tensors_and_a_state_is_a_copy_of_them() -> None:
    groups = random_stream(2, 90, 5)
    tensors = Memory(Reservoir(20), OnDevice(FIELDS), 20, np.random.default_rng(0))
    arrays, loaded = memory_of("reservoir", 20), Memory(Reservoir(20), OnDevice(FIELDS), 20, np.random.default_rng(9))
    for at in range(0, 90, 15):
        for memory in (tensors, arrays):
            memory.add(batch_of(np.arange(at, at + 15), groups[at : at + 15]), groups[at : at + 15])
        if at == 60:
            middle, expected = tensors.state(), arrays.state()
    assert same_tree(middle, expected)  # although both went on
    assert same_tree(tensors.state(), arrays.state())
    loaded.load(tensors.state())
    assert np.array_equal(loaded.sample(6)["image"].numpy(), arrays.sample(6)["image"])
