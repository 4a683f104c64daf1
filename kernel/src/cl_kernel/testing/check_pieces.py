"""Checks of policies, codecs and metrics on their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cl_kernel.contract.errors import ClkError
from cl_kernel.contract.stream import Field
from cl_kernel.registry import Offer, resolve
from cl_kernel.storage.checkpoint import digest_tree
from cl_kernel.testing.check_data import same
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, blame, check, round_trip

CAPACITY = 13


def policies(subject: Subject) -> Iterator[tuple[str, Any]]:
    """Each offered policy with a function that builds it with default settings."""
    found = [o for o in subject.offers("replay") if o.record.kind == "policy"]
    if not found:
        raise NotApplicable("offers no policy")
    for offer in found:

        def make(offer: Offer = offer) -> Any:
            settings = offer.record.settings() if offer.record.settings else None
            return resolve(offer.record.build)(settings, CAPACITY)

        yield offer.record.name, make


def newcomers(n: int = 150) -> np.ndarray:
    """Groups of a stream that fills a memory several times: runs, mixtures, a late group."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.repeat([5, 2], 20), rng.integers(0, 6, n - 60), np.full(20, 77)])


@check
def policies_keep_within_capacity(subject: Subject) -> None:
    """Slots are below the capacity, filled without gaps, and as many as the policy says."""
    for name, make in policies(subject):
        policy, rng, used = make(), np.random.default_rng(0), set[int]()
        for groups in np.array_split(newcomers(), 20):
            slots = policy.place(groups, rng)
            if slots.shape != groups.shape or slots.dtype.kind != "i":
                raise Failed(f"{name}: place gives {slots.dtype} {slots.shape} for {len(groups)} newcomers")
            used |= {slot for slot in slots.tolist() if slot >= 0}
            if used and max(used) >= CAPACITY:
                raise Failed(f"{name}: slot {max(used)} of a memory of {CAPACITY}")
            if len(policy) != len(used) or used != set(range(len(used))):
                raise Failed(f"{name}: {len(policy)} slots in use by its count, {sorted(used)} by what it gave out")


@check
def policies_do_not_depend_on_batching(subject: Subject) -> None:
    """A batch is placed as its examples one at a time."""
    for name, make in policies(subject):
        whole, single = make(), make()
        rngs = [np.random.default_rng(3), np.random.default_rng(3)]
        for groups in np.array_split(newcomers(), 9):
            batch = whole.place(groups, rngs[0])
            ones = [int(single.place(groups[i : i + 1], rngs[1])[0]) for i in range(len(groups))]
            if batch.tolist() != ones:
                raise Failed(f"{name}: a batch of {len(groups)} goes to {batch.tolist()}, one at a time to {ones}")


@check
def policies_draw_what_is_there(subject: Subject) -> None:
    """Draws are occupied slots without repeats, all of them if asked, restricted to groups if asked."""
    for name, make in policies(subject):
        policy, rng = make(), np.random.default_rng(0)
        owner: dict[int, int] = {}
        for groups in np.array_split(newcomers(), 20):
            for slot, group in zip(policy.place(groups, rng).tolist(), groups.tolist(), strict=True):
                owner |= {slot: group} if slot >= 0 else {}
            for n in (1, 4, CAPACITY, 99):
                drawn = policy.draw(n, rng).tolist()
                if len(set(drawn)) != len(drawn) or not set(drawn) <= set(owner) or len(drawn) != min(n, len(owner)):
                    raise Failed(f"{name}: asked for {n} of {len(owner)}, draw gives {drawn}")
            wanted = list(owner.values())[:1] + [99]
            drawn = policy.draw(CAPACITY, rng, np.array(wanted)).tolist()
            if sorted(drawn) != sorted(slot for slot, group in owner.items() if group in wanted):
                raise Failed(f"{name}: asked for groups {wanted}, draw gives slots of {[owner.get(s) for s in drawn]}")


@check
def policies_resume(subject: Subject) -> None:
    """A policy loaded from a saved state goes on as the one that was saved."""
    for name, make in policies(subject):
        groups, rngs = newcomers(), [np.random.default_rng(5), np.random.default_rng(5)]
        policy, other = make(), make()
        policy.place(groups[:70], np.random.default_rng(1))
        policy.draw(3, np.random.default_rng(2), groups[:1])
        with blame(f"{name}: its state"):
            other.load(round_trip(policy.state(), subject.folder))
        for at in range(70, 150, 10):
            a, b = (
                p.place(groups[at : at + 10], r).tolist() + p.draw(4, r).tolist()
                for p, r in zip((policy, other), rngs, strict=True)
            )
            if a != b:
                raise Failed(f"{name}: loaded from its state it goes on otherwise")


@check
def policies_fill_their_capacity(subject: Subject) -> None:
    """After a long stream every slot is in use, or as many as the policy's ``full`` says."""
    for name, make in policies(subject):
        policy, rng = make(), np.random.default_rng(0)
        for groups in np.array_split(newcomers(600), 30):
            policy.place(groups, rng)
        full = int(getattr(policy, "full", CAPACITY))
        if len(policy) < full:
            raise Failed(f"{name}: 600 newcomers leave {len(policy)} of {full} slots in use")


@check
def codecs_keep_what_they_say(subject: Subject) -> None:
    """Codecs for any field state their bytes exactly and give back the fields they were given."""
    found = [o for o in subject.offers("replay") if o.record.kind == "codec" and o.record.stores == "*"]
    n_checked = 0
    for offer in found:
        fields = {
            "vector": Field(shape=(64,), dtype="float32", kind="vector"),
            "class": Field(shape=(), dtype="int64", kind="class", n=9),
        }
        settings = offer.record.settings() if offer.record.settings else None
        with blame(f"codec {offer.record.name}"):
            try:
                codec = resolve(offer.record.build)(settings, fields, _site(subject))
            except ClkError:
                continue  # it says itself that it keeps no such field
            slots = codec.allocate(CAPACITY)
            stated, actual = CAPACITY * codec.bytes_per_example(), sum(int(a.nbytes) for a in slots.values())
            batch: dict[str, np.ndarray] = {
                "vector": np.random.default_rng(0).random((4, 64), np.float32),
                "class": np.arange(4),
            }
            encoded = codec.encode(batch)
            for name, array in slots.items():
                array[np.array([3, 1, 0, 2])] = encoded[name]
            back = codec.decode({name: array[np.array([3, 1, 0, 2])] for name, array in slots.items()})
        if stated != actual:
            raise Failed(
                f"codec {offer.record.name} states {stated} bytes for {CAPACITY} examples, its slots take {actual}"
            )
        for name, array in batch.items():
            got = np.asarray(back.get(name, ()))
            if got.shape != array.shape or (name == "class" and not same(got, array)):
                raise Failed(f"codec {offer.record.name}: {name} {list(array.shape)} comes back as {list(got.shape)}")
        n_checked += 1
    if not n_checked:
        raise NotApplicable("offers no codec for any field")


@check
def metrics_are_pure_and_add_up(subject: Subject) -> None:
    """Metrics change no state in place, batches and merged halves give the same, values lie in the range."""
    offers = subject.some("metric")
    n_checked = 0
    for offer in offers:
        record, stream = offer.record, subject.stream()
        if record.target not in stream.test.spec:
            continue
        target = stream.test.take(np.arange(min(60, len(stream.test))), [record.target])[record.target]
        outputs = _outputs(record.output, target, max(stream.n_classes, 2))
        metric = resolve(record.build)(record.settings() if record.settings else None, stream)
        for label, output in outputs.items():
            with blame(f"metric {record.name} on {label} predictions"):
                start = metric.start()
                empty = digest_tree(start)
                whole = metric.compute(metric.update(start, output, target))
                half = metric.update(metric.start(), output[: len(target) // 3], target[: len(target) // 3])
                before = digest_tree(half)
                rest = metric.update(metric.start(), output[len(target) // 3 :], target[len(target) // 3 :])
                onward = metric.compute(metric.update(half, output[len(target) // 3 :], target[len(target) // 3 :]))
                merged = metric.compute(metric.merge(half, rest))
                saved = metric.compute(round_trip(metric.merge(half, rest), subject.folder))
            if digest_tree(start) != empty or digest_tree(half) != before:
                raise Failed(f"metric {record.name} changes a state in place")
            for how, values in (("in two batches", onward), ("merged from halves", merged), ("saved and read", saved)):
                if {k: _round(v) for k, v in values.items()} != {k: _round(v) for k, v in whole.items()}:
                    raise Failed(f"metric {record.name} gives {whole} at once, {values} {how}")
            value = next(iter(whole.values()))
            if value is not None and not record.range[0] <= value <= record.range[1]:
                raise Failed(f"metric {record.name} gives {value} on {label} predictions, outside {record.range}")
        n_checked += 1
    if not n_checked:
        raise NotApplicable("offers no metric for the data set of its test")


@check
def metrics_prefer_right_answers(subject: Subject) -> None:
    """Right predictions score better than wrong ones, in the direction the record says (or ``judges=False``)."""
    n_checked = 0
    for offer in subject.some("metric"):
        record, stream = offer.record, subject.stream()
        if not record.judges or record.target not in stream.test.spec:
            continue
        target = stream.test.take(np.arange(min(60, len(stream.test))), [record.target])[record.target]
        values = {}
        metric = resolve(record.build)(record.settings() if record.settings else None, stream)
        for label, output in _outputs(record.output, target, max(stream.n_classes, 2)).items():
            with blame(f"metric {record.name}"):
                values[label] = next(iter(metric.compute(metric.update(metric.start(), output, target)).values()))
        if values and None not in values.values():
            better, worse = (
                (values["right"], values["wrong"]) if record.higher_is_better else (values["wrong"], values["right"])
            )
            if not better > worse:
                raise Failed(
                    f"metric {record.name}: right predictions score {values['right']}, wrong ones {values['wrong']}"
                )
            n_checked += 1
    if not n_checked:
        raise NotApplicable("offers no metric that judges the predictions of its test")


def _outputs(output: str, target: np.ndarray, n_classes: int) -> dict[str, Any]:
    """Right, wrong and mixed predictions of the kind a metric reads, where they can be made from the target."""
    some = np.random.default_rng(0).random(len(target)) < 0.4
    if output == "scores" and target.dtype.kind == "i" and target.ndim == 1:
        right = np.eye(max(n_classes, int(target.max()) + 1))[target]
        return {"right": right, "wrong": 1 - right, "mixed": np.where(some[:, None], right, 1 - right)}
    if output == "class" and target.dtype.kind == "i":
        wrong = (target + 1) % n_classes
        return {"right": target, "wrong": wrong, "mixed": np.where(some, target, wrong)}
    if output == "mask":
        masks = [np.where(mask < n_classes, mask, 0) for mask in target]
        others = [(mask + 1) % n_classes for mask in masks]
        mixed = [mask if take else other for mask, other, take in zip(masks, others, some, strict=True)]
        return {"right": masks, "wrong": others, "mixed": mixed}
    return {}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 12)


def _site(subject: Subject) -> Any:
    from cl_kernel.running.resources import Resources

    return Resources(folder=subject.folder)
