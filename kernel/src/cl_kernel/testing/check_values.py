"""Bad values: each is refused by a message that names the setting, or gives a piece that can be built."""

from __future__ import annotations

import contextlib
import math
import resource
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field

from cl_kernel.contract.errors import ClkError, Interrupted
from cl_kernel.contract.stream import Stream
from cl_kernel.registry import BUILTIN, Offer
from cl_kernel.running import settings as config
from cl_kernel.running.blame import blamed
from cl_kernel.running.build import build
from cl_kernel.running.plan import Plan, Request
from cl_kernel.running.session import make_resources, run_plan
from cl_kernel.testing.short_runs import dataset_settings, requests, short_plan, stream_of
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, check
from cl_kernel.testing.tracking import tracked

VALUES: tuple[Any, ...] = (0, -1, math.nan, math.inf, "", [], [1] * 37, 10**30)
KINDS = ("dataset", "model", "replay", "learner", "metric", "test")
SECONDS, BYTES = 10, 2 << 30
"""What building a piece with one value may take of the processor, and of memory beyond what is held before."""


class TooLong(Exception):
    """Building a piece has no end in sight."""


@define
class Tally:
    """What became of the values."""

    n_settings: int = 0
    refused: int = 0
    built: int = 0
    planned_only: list[str] = field(factory=list)
    wrong: list[str] = field(factory=list)


@check
def bad_values_are_refused(subject: Subject) -> str:
    """0, -1, nan, inf, "", [], a wrong length, a huge number: the message names the setting, or the piece is built."""
    pieces = [(kind, offer, settings_of(kind, offer)) for kind in KINDS for offer in subject.offers(kind)]
    classes = [(kind, offer, cls) for kind, offer, cls in pieces if cls is not None]
    tally, seen = Tally(), set[type]()
    if subject.plugin == BUILTIN:
        classes.append(("run", next(o for k, o, _ in classes if k == "learner"), config.RunOptions))
    for kind, offer, cls in classes:
        if subject.only and offer.record.name not in subject.only:
            continue
        if kind in ("metric", "test") and cls in seen:
            continue
        seen.add(cls)
        with contextlib.chdir(subject.folder):  # where a path of an odd name may be made
            _look(subject, kind, offer, cls, tally)
    if not tally.n_settings:
        raise NotApplicable("has no piece with settings")
    if tally.wrong:
        raise Failed(f"{len(tally.wrong)} bad values: " + " | ".join(tally.wrong[:40]))
    more = f"; only planned, without data to build from: {', '.join(tally.planned_only)}" if tally.planned_only else ""
    return (
        f"{tally.n_settings} settings, {len(VALUES)} values each: {tally.refused} refused by name, "
        f"{tally.built} built{more}"
    )


def settings_of(kind: str, offer: Offer) -> type | None:
    """The class of the settings that an offer may be given."""
    found: type | None = offer.record.options if kind == "test" else offer.record.settings
    return found


def _look(subject: Subject, kind: str, offer: Offer, cls: type, tally: Tally) -> None:
    section = {"replay": getattr(offer.record, "kind", ""), "test": "experiment"}.get(kind, kind)
    workshop = _Workshop.of(subject, kind, offer, section)
    if workshop is None and kind in ("dataset", "model", "replay", "learner"):
        tally.planned_only.append(offer.name)
    for attribute in attrs.fields(cls):
        tally.n_settings += 1
        for value in VALUES:
            key = f"{section}.{attribute.name}"
            try:
                config.resolve_settings({section: cls}, [config.Layer("--set", {key: value})])
                if workshop is not None:
                    with limits():
                        workshop.build(attribute.name, key, value)
                tally.built += 1
            except ClkError as error:
                tally.refused += 1
                if attribute.name not in str(error):
                    tally.wrong.append(f"{offer.name} {key}={_short(value)}: the message does not name it: {error}")
            except Exception as error:
                tally.wrong.append(f"{offer.name} {key}={_short(value)}: {type(error).__name__}: {str(error)[:200]}")


def _short(value: Any) -> str:
    return f"{len(value)} numbers" if isinstance(value, list) and value else repr(value)


@define
class _Workshop:
    """Where a piece is built: a short run that it takes part in, or a data set alone.

    :param stream: built once where the piece is no data set.
    """

    subject: Subject
    offer: Offer
    section: str
    request: Request | None = None
    example: Mapping[str, Any] = field(factory=dict)
    stream: Stream | None = None

    @classmethod
    def of(cls, subject: Subject, kind: str, offer: Offer, section: str) -> _Workshop | None:
        """None where the piece cannot be built here as it is."""
        if kind in ("metric", "test"):
            return None
        if kind == "dataset" and (example := subject.example(offer, subject.folder / "values" / offer.record.name)):
            return cls(subject, offer, section, example=example)
        wanted = "learner" if kind == "run" else kind
        for request in requests(subject, wanted, offer):
            made = cls(subject, offer, section, request=request)
            with contextlib.suppress(ClkError), subject.cache_named("values"):
                planned = short_plan(subject, request, {})
                built = build(planned, made._resources(planned))
                made.stream = None if kind == "dataset" else built.stream
                return made
        return None

    def build(self, name: str, key: str, value: Any) -> None:
        """Plan and build with the value; what the learner makes only when it learns, in a run of one step.

        :raises ClkError: when it is refused.
        """
        with self.subject.cache_named("values"):
            if self.request is None:
                self._build_data({key: value})
                return
            planned = short_plan(self.subject, self.request, {key: value})
            read: set[str] = set()
            if self.section in ("model", "policy", "codec", "source"):
                planned.resolved.sections[self.section] = tracked(planned.resolved.sections[self.section], read)
                read.discard(name)
            build(planned, self._resources(planned), self.stream)
            if self.section in ("model", "policy", "codec", "source") and name not in read:
                self._first_step({key: value})

    def _build_data(self, given: Mapping[str, Any]) -> None:
        example = {**self.example, **given}
        roots = tuple(map(str, example.pop("data_roots", ())))
        made = dataset_settings(self.subject, self.offer, example, short=False)
        origins = dict.fromkeys(given, "--set")
        with blamed(config.Resolved({"dataset": made}, origins), "dataset", self.offer.name):
            stream_of(self.subject, self.offer, made, roots).check()

    def _first_step(self, given: Mapping[str, Any]) -> None:
        assert self.request is not None
        planned = short_plan(self.subject, self.request, {**given, "run.stop_at_step": 1})
        folder = self.subject.folder / "values" / f"run-{len(list(self.subject.folder.glob('values/run-*')))}"
        with contextlib.suppress(Interrupted):
            run_plan(self.subject.registry, planned, folder, comparisons=False)

    def _resources(self, planned: Plan) -> Any:
        folder = Path(self.subject.folder) / "values" / "folder"
        folder.mkdir(parents=True, exist_ok=True)
        return make_resources(self.subject.registry, planned, folder, lambda event: None)


@contextlib.contextmanager
def limits(seconds: int = SECONDS, nbytes: int = BYTES) -> Iterator[None]:
    """Not more of the processor's time and of memory than that.

    :raises TooLong: after so many seconds.
    """

    def late(signum: int, frame: object) -> None:
        raise TooLong(f"more than {seconds} s of the processor")

    before = signal.signal(signal.SIGPROF, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_held() + nbytes, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _held() -> int:
    """Bytes of data that this process holds."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmData")) * 1024
