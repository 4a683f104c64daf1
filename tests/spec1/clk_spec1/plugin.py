"""Every hook of contract 1."""

from cl_kernel import (
    Asset,
    Command,
    Dataset,
    Executor,
    Expected,
    Experiment,
    Learner,
    Metric,
    Model,
    Plugin,
    Replay,
    Tracker,
    hookimpl,
)
from clk_spec1.settings import Count, Rings, Train

HEARD = []
ROWS = Asset(name="rows", summary="rows of numbers", files=("rows.txt",), origin="https://example.org/rows")


@hookimpl
def clk_plugin():
    return Plugin(name="spec1", summary="frozen at contract 1", paper="none", spec=1)


@hookimpl
def clk_datasets():
    return [
        Dataset(
            name="rings",
            summary="classes on a ring",
            task="vector -> class",
            build="clk_spec1.pieces:build_rings",
            settings=Rings,
            profiles={"tiny": {"n_train": 24}},
            argument="n_classes",
        ),
        Dataset(
            name="rows",
            summary="rows from a file",
            task="vector -> class",
            build="clk_spec1.pieces:build_rows",
            needs=(ROWS,),
            prepare="clk_spec1.pieces:prepare_rows",
        ),
    ]


@hookimpl
def clk_models():
    return [Model(name="table", summary="a matrix", framework="numpy", build="clk_spec1.pieces:build_table", takes="*")]


@hookimpl
def clk_replays():
    return [
        Replay(name="newest", summary="the newest stay", kind="policy", build="clk_spec1.pieces:build_newest"),
        Replay(name="plain", summary="as given", kind="codec", build="clk_spec1.pieces:build_plain"),
        Replay(name="echo", summary="zeros for every class", kind="source", build="clk_spec1.pieces:build_echo"),
    ]


@hookimpl
def clk_metrics():
    return [
        Metric(name="hits", summary="share of right classes", build="clk_spec1.pieces:build_hits"),
        Metric(
            name="misses",
            summary="share of wrong classes",
            build="clk_spec1.pieces:build_misses",
            higher_is_better=False,
        ),
    ]


@hookimpl
def clk_learners():
    return [
        Learner(
            name="softmax",
            summary="softmax regression, with replay if given a memory",
            build="clk_spec1.pieces:build_learner",
            takes=("vector -> class",),
            rooms=("model", "memory"),
            defaults={"model": "table", "replay": "newest+plain", "memory": "30"},
            metrics=("hits", "misses"),
            settings=Train,
        )
    ]


@hookimpl
def clk_experiments():
    return [
        Experiment(
            name="MEANS",
            summary="six classes in three stages",
            aliases=("3x2",),
            settings={"dataset": "rings", "learner": "softmax"},
            profiles={"tiny": {}, "paper": {"dataset.n_train": 500}},
            beside={"naive": {"replay": "none"}},
            expected=(Expected(metric="hits", value=0.5, where="table 1"),),
            default=True,
        ),
        Experiment(name="COUNT", summary="counts", run="clk_spec1.pieces:run_count", options=Count),
    ]


@hookimpl
def clk_commands():
    return [Command(name="hello", summary="greets", build="clk_spec1.pieces:build_hello")]


@hookimpl
def clk_trackers():
    return [Tracker(name="lines", summary="a line an event", build="clk_spec1.pieces:build_lines")]


@hookimpl
def clk_executors():
    return [Executor(name="here", summary="one task after the other", build="clk_spec1.pieces:build_here")]


@hookimpl
def clk_locate(asset, roots):
    if asset.name != "rows":
        return None
    return next((root / "deep" for root in roots if (root / "deep" / "rows.txt").exists()), None)


@hookimpl
def clk_event(event):
    HEARD.append(type(event).__name__)


@hookimpl
def clk_configure(settings):
    HEARD.append(settings.get("learner.lr"))
