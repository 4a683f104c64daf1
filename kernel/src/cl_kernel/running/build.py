"""From a plan to objects: stream, learner, memories and scorers, each failure named by the settings given for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
from attrs import define, field, frozen

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.stream import Stream
from cl_kernel.data.scenarios import arrange
from cl_kernel.data.stream_options import StreamOptions
from cl_kernel.registry import Offer, resolve
from cl_kernel.running.blame import blamed
from cl_kernel.running.budget import budget_of, what_is_left, within
from cl_kernel.running.identify import identified
from cl_kernel.running.plan import Plan
from cl_kernel.running.resources import Resources, Setup
from cl_kernel.running.scoring import Scorer


@frozen
class Built:
    """The objects of a plan; ``memories`` grows when the learner asks for one."""

    stream: Stream
    learner: Any
    scorers: list[Scorer]
    memories: list[Any] = field(factory=list)


def build(planned: Plan, resources: Resources, stream: Stream | None = None) -> Built:
    """Everything that a run of a stream needs, nothing learnt yet.

    :param stream: the plan's, where it is there already.
    :raises ClkError: naming the data, piece or setting that does not do.
    """
    pieces = planned.pieces
    with blamed(planned.resolved, "dataset", pieces["dataset"][0].name):
        sections = planned.resolved.sections
        if stream is None:
            stream = build_stream(pieces["dataset"][0], sections.get("dataset"), resources, sections.get("stream"))
        stream.check()
    _fields_fit(planned, stream)
    memories: list[Any] = []
    n_samples = sum(len(stage.train) for stage in stream.stages)
    setup = Setup(
        stream=stream,
        resources=resources,
        model=_model_factory(planned, resources) if "model" in pieces else None,
        memory=Memories(planned, resources, n_samples, memories) if "codec" in pieces else None,
        source=_built(planned, "source", resources) if "source" in pieces else None,
    )
    learner = _built(planned, "learner", setup)
    if resources.augment and not getattr(learner, "augments", False):
        raise Mismatch(
            f"learner {planned.pieces['learner'][0].name} reads its pictures in a way of its own",
            where="stream.augment",
            fix="a learner of the library, as clk:er; some plugins have settings for views of their own",
        )
    if planned.options.budget:
        within(learner, memories, budget_of(planned.options.budget), planned.pieces["learner"][0].name)
    return Built(stream, learner, [_scorer(offer, stream) for offer in planned.metrics], memories)


def _scorer(offer: Offer, stream: Stream) -> Scorer:
    record = offer.record
    return Scorer(record, resolve(record.build)(record.settings() if record.settings else None, stream))


def build_stream(offer: Offer, settings: Any, resources: Resources, options: StreamOptions | None = None) -> Stream:
    """The stream of a data set, with its identity.

    :param options: what is made of its stages.
    """
    record = offer.record
    make = resolve(record.build)
    if options is None or not options.changes:
        return identified(make(settings, resources), offer.name, record.revision, settings, resources.files)
    whole, options, n_stages = _as_a_whole(settings, options)
    stream = arrange(make(whole, resources), options, resources.rng, n_stages)
    return identified(stream, offer.name, record.revision, settings, resources.files)


def _as_a_whole(settings: Any, options: StreamOptions) -> tuple[Any, StreamOptions, int]:
    """A data set's settings without its own split, where the stream's options make another; and what it said of it."""
    own = {} if settings is None else {a.name: getattr(settings, a.name) for a in attrs.fields(type(settings))}
    if not options.splits or "n_stages" not in own:
        return settings, options, 0
    plain = {"n_stages": 1, **{name: () for name in ("stage_sizes", "order") if name in own}}
    if not options.order and options.scenario in ("", "class", "task"):
        options = attrs.evolve(options, order=own.get("order", ()))
    if not options.sizes and not options.stages and options.scenario in ("", "class", "task"):
        options = attrs.evolve(options, sizes=own.get("stage_sizes", ()))
    return attrs.evolve(settings, **plain), options, int(own["n_stages"])


def _fields_fit(planned: Plan, stream: Any) -> None:
    if "model" in planned.pieces:
        model = planned.pieces["model"][0]
        if model.record.takes != "*" and model.record.takes not in stream.spec:
            raise Mismatch(
                f"model {model.name} reads {model.record.takes!r}, but data set {stream.name} has "
                f"{', '.join(stream.spec)}",
                where="--model/--dataset",
                fix="clk list models",
            )
    for offer in planned.metrics:
        if offer.record.target not in stream.test.spec:
            raise Mismatch(
                f"metric {offer.name} compares with {offer.record.target!r}, but data set {stream.name} has "
                f"{', '.join(stream.test.spec)}",
                where="--metric/--dataset",
                fix="clk list metrics",
            )


def _model_factory(planned: Plan, resources: Resources) -> Callable[[Mapping[str, Any], int], Any]:
    return lambda fields, n_outputs: _built(planned, "model", fields, n_outputs, resources)


def _built(planned: Plan, section: str, *others: Any) -> Any:
    """A piece of a plan; a failure names the settings that were given for it."""
    offer = planned.pieces[section][0]
    with blamed(planned.resolved, section, offer.name):
        return resolve(offer.record.build)(planned.resolved.sections.get(section), *others)


@define
class Memories:
    """Makes the memories that a learner asks for, of the run's policy, codec and capacity."""

    planned: Plan
    resources: Resources
    n_samples: int
    made: list[Any]
    _elsewhere: tuple[int, int] = (0, 0)

    def beside(self, nbytes: int, each: int = 0) -> None:
        """The learner keeps so many bytes elsewhere, and so many more for each example of its memory."""
        self._elsewhere = (nbytes, each)

    def __call__(self, fields: Mapping[str, Any]) -> Any:
        """A memory of examples with these fields."""
        from cl_kernel.memory import build_memory

        codec = _built(self.planned, "codec", fields, self.resources)
        policy = partial(_built, self.planned, "policy")
        options, learner = self.planned.options, self.planned.pieces["learner"][0]
        capacity: Any = options.memory or str(learner.record.defaults.get("memory", "200"))
        if options.budget and not options.memory:
            reserve, each = self._elsewhere
            room = budget_of(options.budget) - reserve - sum(memory.nbytes for memory in self.made)
            capacity = what_is_left(room, reserve, each, codec, learner.name)
        rng = self.resources.rng("memory", len(self.made))
        self.made.append(build_memory(policy, codec, capacity, rng, n_examples=self.n_samples))
        return self.made[-1]
