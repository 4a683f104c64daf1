"""Every hook of the contract, version 2.

All ``clk_*s`` hooks collect: they take nothing, do no I/O, import no deep-learning library and return a list of
frozen records. They are called once, one plugin at a time, so one that raises is quarantined alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pluggy

from cl_kernel.contract.events import Event
from cl_kernel.contract.interfaces import Companions
from cl_kernel.contract.offers import (
    Asset,
    Command,
    Dataset,
    Executor,
    Experiment,
    Learner,
    Metric,
    Model,
    Plugin,
    Replay,
    Tracker,
)

PROJECT = "cl_kernel"
"""Name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def clk_plugin() -> Plugin:
    """Say who you are; without it the distribution's metadata serve.

    Since spec 1.
    """


@hookspec
def clk_datasets() -> Sequence[Dataset]:
    """Offer streams, selectable with ``--dataset NAME``.

    :return: one record per stream; ``build`` names a ``(settings, resources) -> Stream`` factory.

    Since spec 1.
    """


@hookspec
def clk_models() -> Sequence[Model]:
    """Offer networks, selectable with ``--model NAME``.

    :return: one record per network; ``build`` names a ``(settings, fields, n_outputs, resources) -> object`` factory.

    Since spec 1.
    """


@hookspec
def clk_replays() -> Sequence[Replay]:
    """Offer policies, codecs and sources, selectable with ``--replay NAME``.

    :return: one record per piece; see :class:`cl_kernel.contract.offers.Replay` for the factories.

    Since spec 1.
    """


@hookspec
def clk_metrics() -> Sequence[Metric]:
    """Offer scores, selectable with ``--metric NAME``.

    :return: one record per metric; ``build`` names a ``(settings, stream) -> Metric`` factory.

    Since spec 1.
    """


@hookspec
def clk_learners() -> Sequence[Learner]:
    """Offer methods, selectable with ``--learner NAME``.

    :return: one record per method; ``build`` names a ``(settings, setup) -> Learner`` factory.

    Since spec 1.
    """


@hookspec
def clk_experiments() -> Sequence[Experiment]:
    """Offer what ``--test NAME`` runs.

    :return: one record per named experiment.

    Since spec 1.
    """


@hookspec
def clk_commands() -> Sequence[Command]:
    """Offer subcommands ``clk PLUGIN NAME``.

    :return: one record per command; ``build`` names a function that adds arguments to an
        :class:`argparse.ArgumentParser` and returns the handler ``(namespace, console) -> exit code``.

    Since spec 1.
    """


@hookspec
def clk_trackers() -> Sequence[Tracker]:
    """Offer places where progress and scores go, selectable with ``--tracker NAME``.

    :return: one record per tracker; ``build`` names a ``(folder) -> (event) -> None`` factory.

    Since spec 1.
    """


@hookspec
def clk_executors() -> Sequence[Executor]:
    """Offer places where sweeps run, selectable with ``--executor NAME``.

    :return: one record per executor.

    Since spec 1.
    """


@hookspec(firstresult=True)
def clk_locate(asset: Asset, roots: Sequence[Path]) -> Path | None:
    """Find a data set or weight file; the first answer counts, the kernel's own search comes last.

    :param asset: what is wanted.
    :param roots: data roots in order of preference.
    :return: the folder that holds ``asset.files``, or None to let the next plugin try.

    Since spec 1.
    """


@hookspec(firstresult=True)
def clk_companions(
    runs: Mapping[str, tuple[Path, Mapping[str, Any]]], n: int, listen: Sequence[Callable[[Event], None]]
) -> Companions | None:
    """Make comparison runs in processes of their own while their main run goes on; the first answer counts.

    :param runs: label -> run folder and request, in plain values.
    :param n: processes at once.
    :param listen: to be told what begins.

    Since spec 2.
    """


@hookspec
def clk_event(event: Event, folder: Path) -> None:
    """Hear what happens in a run; the result is ignored. Never called per step.

    :param event: one of :mod:`cl_kernel.contract.events`.
    :param folder: the run folder.

    Since spec 1.
    """


@hookspec(historic=True)
def clk_configure(settings: Mapping[str, Any]) -> None:
    """Hear the resolved settings once, before anything is built; also reaches plugins registered later.

    :param settings: dotted name -> value.

    Since spec 1.
    """
