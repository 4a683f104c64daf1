"""Scenarios of any data set with one class a sample: its training and test samples, dealt to stages anew.

What is drawn at random depends on the run's seed only, so that it is the same for every learner.

Shapes: N training samples of the whole data set, M test samples, T stages, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, evolve, frozen

from cl_kernel.contract.errors import BadInput, BadSetting, Mismatch
from cl_kernel.contract.interfaces import Contents, Samples
from cl_kernel.contract.stream import Field, Stage, Stream
from cl_kernel.data.samples import ArraySamples, Concatenation, Subset, class_groups, identify_samples, subset
from cl_kernel.data.stream_options import StreamOptions
from cl_kernel.data.transforms import Transform, transforms, try_out

KINDS = ("image", "map", "vector")
RESIDENT_BYTES = 1 << 28
"""Transformed samples that take no more are made once and kept."""
Rng = Callable[..., np.random.Generator]


@define
class Part:
    """One stage in the making: rows of the pool."""

    name: str
    rows: np.ndarray
    tested: np.ndarray
    classes: tuple[int, ...]
    info: dict[str, Any]


@frozen(kw_only=True)
class Pool:
    """All samples of a data set.

    :param given: the stages that the data set made of them; empty where its test sets belong to none.
    """

    train: Samples
    labels: np.ndarray
    test: Samples
    test_labels: np.ndarray
    given: list[Part]
    names: tuple[str, ...]
    label: str
    source: str


def arrange(stream: Stream, options: StreamOptions, rng: Rng, n_stages: int = 0) -> Stream:
    """The stream that the options make of a data set's.

    :param rng: names -> a generator fixed by the run's seed.
    :param n_stages: of the data set, where the options give none; 0: as many as the stream has.
    :raises ClkError: for what the data set cannot give, naming the setting.
    """
    if not options.changes:
        return stream
    pool = _pool(stream)
    kept = _long_tailed(pool, options, rng)
    held = _held_apart(pool, kept, options, rng)
    parts = _parts(pool, options, rng, options.stages or n_stages or len(stream.stages))
    for part in parts:
        part.tested = part.rows[held[part.rows]] if options.scored == "validation" else part.tested
        part.rows = part.rows[kept[part.rows] & ~held[part.rows]]
        if options.scenario in ("instance", "mixed"):
            part.classes = tuple(np.unique(pool.labels[part.rows]).tolist())
    _few_shots(pool, parts, options, rng)
    _blur(pool, parts, options, rng)
    _not_empty(parts, options)
    made = _domains(stream, pool, parts, options, rng) if options.scenario == "domain" else None
    return _stream(stream, pool, parts, options, rng, made)


# ---- the data set ---------------------------------------------------------------------------------


def _pool(stream: Stream) -> Pool:
    """Every sample once, with its class.

    :raises Mismatch: for a data set without one class a sample and something a network reads.
    """
    label = next((name for name, field in stream.spec.items() if field.kind == "class"), "")
    source = next((name for name, field in stream.spec.items() if field.kind in KINDS), "")
    if not label or not source or not stream.class_names:
        raise Mismatch(
            f"settings of the stream are for data with one class a sample; {stream.name} has "
            f"{', '.join(stream.test.spec)} ({stream.task})",
            where="stream",
            fix="clk list datasets names the task of each",
        )
    train = _joined([stage.train for stage in stream.stages])
    labels, tested = (side.take(np.arange(len(side)), [label])[label] for side in (train, stream.test))
    return Pool(
        train=train,
        labels=np.asarray(labels),
        test=stream.test,
        test_labels=np.asarray(tested),
        given=_given(stream, np.asarray(labels)),
        names=tuple(stream.class_names),
        label=label,
        source=source,
    )


def _given(stream: Stream, labels: np.ndarray) -> list[Part]:
    if len(stream.test_sets) != len(stream.stages):
        return []
    parts, end = [], 0
    for stage, tested in zip(stream.stages, stream.test_sets.values(), strict=True):
        rows = np.arange(end, end + len(stage.train))
        end += len(stage.train)
        classes = stage.classes or tuple(np.unique(labels[rows]).tolist())
        parts.append(Part(stage.name, rows, np.asarray(tested), classes, dict(stage.info)))
    return parts


def _joined(parts: Sequence[Samples]) -> Samples:
    """The samples of all stages, one after the other.

    :raises Mismatch: when stages share samples, which would then be dealt twice.
    """
    subsets = [part for part in parts if isinstance(part, Subset)]
    if len(subsets) < len(parts) or any(part.base is not subsets[0].base for part in subsets):
        return parts[0] if len(parts) == 1 else Concatenation(list(parts))
    rows = np.concatenate([part.rows for part in subsets])
    if len(np.unique(rows)) < len(rows):
        raise Mismatch("the data set's stages share samples, so they cannot be dealt anew", where="stream")
    return subset(subsets[0].base, rows)


# ---- which samples take part ----------------------------------------------------------------------


def _class_order(pool: Pool, options: StreamOptions, rng: Rng) -> list[int]:
    n = len(pool.names)
    if options.order == "random":
        return [int(c) for c in rng("stream", "classes").permutation(n)]
    return [int(c) for c in options.order] if options.order else list(range(n))


def _long_tailed(pool: Pool, options: StreamOptions, rng: Rng) -> np.ndarray:
    """Which samples are left when class numbers fall exponentially; bool [N]."""
    kept = np.ones(len(pool.labels), bool)
    if not options.long_tail:
        return kept
    order = _class_order(pool, options, rng)
    if options.tail == "random":
        order = [int(c) for c in rng("stream", "tail").permutation(len(order))]
    most = max(np.count_nonzero(pool.labels == c) for c in order)
    for rank, c in enumerate(order):
        wanted = round(most * options.long_tail ** (-rank / max(1, len(order) - 1)))
        rows = rng("stream", "long-tail", c).permutation(np.flatnonzero(pool.labels == c))
        if wanted < 1:
            raise BadSetting(
                f"a tail of {options.long_tail:g} leaves none of the {len(rows)} samples of class {pool.names[c]}",
                where="stream.long_tail",
                fix=f"at most {most}",
            )
        kept[rows[wanted:]] = False
    return kept


def _held_apart(pool: Pool, kept: np.ndarray, options: StreamOptions, rng: Rng) -> np.ndarray:
    """Which samples are kept apart for validation: a share of each class, within its stage where that is given."""
    held = np.zeros(len(pool.labels), bool)
    if not options.validation:
        return held
    stages = {} if options.splits else {k: part.rows for k, part in enumerate(pool.given)}
    for k, mine in (stages or {-1: np.arange(len(held))}).items():
        for c in np.unique(pool.labels[mine]).tolist():
            own = mine[kept[mine] & (pool.labels[mine] == c)]
            rows = rng("stream", "validation", k, c).permutation(own)
            n = max(1, round(options.validation * len(rows)))
            if n >= len(rows):
                within = f" in stage {k}" if k >= 0 else ""
                raise BadInput(
                    f"class {pool.names[c]} has {len(rows)} training samples{within}: too few to keep any apart",
                    where="stream.validation",
                    fix="more data, or stream.validation=0",
                )
            held[rows[:n]] = True
    return held


# ---- stages ---------------------------------------------------------------------------------------


def _parts(pool: Pool, options: StreamOptions, rng: Rng, n_stages: int) -> list[Part]:
    if options.scenario == "domain":
        everything = tuple(range(len(pool.names)))
        name = options.transform.rpartition(":")[2] or "domain"
        return [
            Part(
                f"{name} {k}", np.arange(len(pool.labels)), np.arange(len(pool.test_labels)), everything, {"domain": k}
            )
            for k in range(n_stages)
        ]
    if options.scenario in ("instance", "mixed"):
        return _dealt(pool, options, rng, n_stages)
    if options.splits:
        _check_dealt_by_class(pool, options)
        order, asked = _class_order(pool, options, rng), ("stream.stages", "stream.sizes")
        groups = class_groups(len(pool.names), options.sizes or None, n_stages, order, asked=asked)
        return [_of_classes(pool, group, k, options.scenario) for k, group in enumerate(groups)]
    if not pool.given:
        raise Mismatch(
            "the data set's test sets belong to no stage",
            where="stream",
            fix="stream.scenario=class, domain, instance or mixed deals both anew",
        )
    return pool.given


def _check_dealt_by_class(pool: Pool, options: StreamOptions) -> None:
    """Refuse to make stages of classes out of stages that share classes, unless that was said.

    :raises BadSetting: naming a class and two of its stages.
    """
    owner: dict[int, str] = {}
    for part in () if options.scenario else pool.given:
        for c in part.classes:
            if c in owner:
                given = next(name for name in ("stages", "sizes", "order") if getattr(options, name))
                raise BadSetting(
                    f"stages of the data set share classes ({pool.names[c]} is in {owner[c]} and {part.name}); "
                    "dealing them anew by class is another scenario",
                    where=f"stream.{given}",
                    fix="stream.scenario=class, task, instance or mixed says which",
                )
            owner[c] = part.name


def _of_classes(pool: Pool, group: tuple[int, ...], index: int, scenario: str) -> Part:
    names = [pool.names[c] for c in group]
    name = "+".join(names) if len(names) <= 3 else f"{names[0]}..{names[-1]}"
    rows, tested = (np.flatnonzero(np.isin(labels, group)) for labels in (pool.labels, pool.test_labels))
    return Part(name, rows, tested, group, {"task": index} if scenario == "task" else {})


def _dealt(pool: Pool, options: StreamOptions, rng: Rng, n_stages: int) -> list[Part]:
    """Each class dealt over the stages: in equal or given shares, or in random ones."""
    shares = np.array(options.shares or [1.0] * n_stages)
    if options.shares and options.stages and len(options.shares) != options.stages:
        raise BadSetting(f"{len(options.shares)} shares for {options.stages} stages", where="stream.shares")
    rows: list[list[np.ndarray]] = [[] for _ in shares]
    tested: list[list[np.ndarray]] = [[] for _ in shares]
    for c, name in enumerate(pool.names):
        mine, least = shares / shares.sum(), int(options.scenario == "instance")
        if options.scenario == "mixed":
            mine = rng("stream", "mix", c).dirichlet(options.mix * len(shares) * mine)
        for side, labels, into in (("training", pool.labels, rows), ("test", pool.test_labels, tested)):
            own = rng("stream", "deal", side, c).permutation(np.flatnonzero(labels == c))
            if options.scenario == "instance" and len(own) < len(shares):
                raise BadInput(
                    f"class {name} has {len(own)} {side} samples for {len(shares)} stages",
                    where="stream.scenario=instance",
                    fix="fewer stages (stream.stages), or more data",
                )
            for k, piece in enumerate(np.split(own, _ends(mine, len(own), least)[:-1])):
                into[k].append(piece)
    made = []
    for k in range(len(shares)):
        mine, theirs = np.concatenate(rows[k]), np.concatenate(tested[k])
        made.append(Part(f"part {k}", mine, theirs, tuple(np.unique(pool.labels[mine]).tolist()), {}))
    return made


def _ends(shares: np.ndarray, n: int, least: int) -> np.ndarray:
    """Where each share of n ends, the largest remainders rounded up and at least so many each; int [T]."""
    counts = np.floor(shares * n).astype(int)
    counts[np.argsort(counts - shares * n, kind="stable")[: n - counts.sum()]] += 1
    while counts.min() < least:
        counts[counts.argmax()] -= 1
        counts[counts.argmin()] += 1
    return np.cumsum(counts)


def _few_shots(pool: Pool, parts: list[Part], options: StreamOptions, rng: Rng) -> None:
    if not options.shots:
        return
    for k, part in enumerate(parts[1:], 1):
        chosen = []
        for c in part.classes:
            rows = part.rows[pool.labels[part.rows] == c]
            if len(rows) < options.shots:
                raise BadInput(
                    f"class {pool.names[c]} has {len(rows)} training samples in stage {k}, fewer than "
                    f"{options.shots} shots",
                    where="stream.shots",
                    fix=f"stream.shots={len(rows)} or less, or more data",
                )
            chosen.append(rng("stream", "shots", k, c).permutation(rows)[: options.shots])
        part.rows = np.concatenate([part.rows[:0], *chosen])


def _blur(pool: Pool, parts: list[Part], options: StreamOptions, rng: Rng) -> None:
    """A share of each stage's samples changes places with those of other stages; sizes stay."""
    if not options.blurry:
        return
    if len(parts) < 2:
        raise BadSetting("one stage has no boundary", where="stream.blurry", fix="more stages (stream.stages)")
    draw = rng("stream", "blurry")
    mixed = [draw.permutation(part.rows) for part in parts]
    n_moved = [round(options.blurry * len(rows)) for rows in mixed]
    owner = np.repeat(np.arange(len(parts)), n_moved)
    moved = np.concatenate([rows[:n] for rows, n in zip(mixed, n_moved, strict=True)])
    places = _elsewhere(owner, draw)
    for k, part in enumerate(parts):
        part.info |= {"task_classes": part.classes}
        part.rows = np.concatenate([mixed[k][n_moved[k] :], moved[places[owner == k]]])
        present = set(np.unique(pool.labels[part.rows]).tolist())
        part.classes = (*part.classes, *sorted(present - set(part.classes)))


def _elsewhere(owner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of n items, each in the place of an item of another owner, as far as that can be; int [n]."""
    order = rng.permutation(len(owner))
    for at in np.flatnonzero(owner[order] == owner):
        if owner[order[at]] != owner[at]:
            continue  # an earlier exchange has moved it
        fits = np.flatnonzero((owner[order] != owner[at]) & (owner != owner[order[at]]))
        if len(fits):
            other = fits[rng.integers(len(fits))]
            order[[at, other]] = order[[other, at]]
    return order


def _not_empty(parts: Sequence[Part], options: StreamOptions) -> None:
    for k, part in enumerate(parts):
        for side, rows in (("training", part.rows), (options.scored, part.tested)):
            if not len(rows):
                raise BadInput(
                    f"stage {k} ({part.name}) is left without {side} samples",
                    where="stream",
                    fix="fewer stages, more data, or a larger stream.mix or stream.validation",
                )


# ---- the stream -----------------------------------------------------------------------------------


@define
class Transformed:
    """Samples whose input goes through a function when taken.

    :param told: what the function is, for the identity.
    """

    base: Samples
    source: str
    function: Transform
    told: tuple[Any, ...]

    @property
    def spec(self) -> dict[str, Field]:
        """Fields of the base."""
        return dict(self.base.spec)

    def __len__(self) -> int:
        return len(self.base)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows of the base, the input transformed."""
        taken = dict(self.base.take(rows, fields))
        if self.source in taken:
            taken[self.source] = self.function(taken[self.source])
        return taken

    def identify(self, files: Contents, rows: np.ndarray | None = None) -> str:
        """Digest of what the base's rows hold and of the function."""
        return files.content(self.told, identify_samples(self.base, files, rows))


def _domains(stream: Stream, pool: Pool, parts: Sequence[Part], options: StreamOptions, rng: Rng) -> list[Transform]:
    spec = stream.spec[pool.source]
    made = transforms(options.transform, options.amount, len(parts), spec, rng("stream", "transform"))
    few = pool.train.take(np.arange(min(2, len(pool.train))), [pool.source])[pool.source]
    try_out(made, few, options.transform)
    return made


def _stream(
    stream: Stream, pool: Pool, parts: Sequence[Part], options: StreamOptions, rng: Rng, made: list[Transform] | None
) -> Stream:
    tests = pool.train if options.scored == "validation" else pool.test
    stages, sides, sets, end = [], [], {}, 0
    for k, part in enumerate(parts):
        rows = rng("stream", "order", k).permutation(part.rows)
        train, side = subset(pool.train, rows), subset(tests, part.tested)
        if made is not None:
            told = (options.transform, options.amount, k, _source_of(made[k]))
            train, side = (_through(samples, pool.source, made[k], told) for samples in (train, side))
        stages.append(Stage(index=k, name=part.name, train=train, classes=tuple(part.classes), info=part.info))
        sides.append(side)
        sets[part.name] = np.arange(end, end + len(part.tested))
        end += len(part.tested)
    test = _joined(sides) if made is None and _disjoint(parts) else Concatenation(sides)
    return evolve(stream, stages=tuple(stages), test=test, test_sets=sets, fingerprint="", identity=None)


def _disjoint(parts: Sequence[Part]) -> bool:
    rows = np.concatenate([part.tested for part in parts])
    return len(np.unique(rows)) == len(rows)


def _source_of(function: Any) -> str:
    """The text of the file of one's own function, where it can be found."""
    own = next(iter(getattr(function, "args", ())), None)
    code = getattr(own, "__code__", None)
    path = Path(code.co_filename) if code is not None else None
    return path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""


def _through(samples: Samples, source: str, function: Transform, told: tuple[Any, ...]) -> Samples:
    """Transformed samples, made once where they are small and in memory."""
    lazy = Transformed(samples, source, function, told)
    base = samples.base if isinstance(samples, Subset) else samples
    small = samples.spec[source].nbytes * len(samples) <= RESIDENT_BYTES
    if isinstance(base, ArraySamples) and small and type(base) is ArraySamples:
        arrays = lazy.take(np.arange(len(samples)))
        return ArraySamples(dict(samples.spec), arrays)
    return lazy
