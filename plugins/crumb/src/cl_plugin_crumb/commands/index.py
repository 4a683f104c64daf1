"""Names of the ``clk crumb ...`` commands; light."""

from __future__ import annotations

_DATA = ("pandas", "PIL")
_FIGURES = ("matplotlib",)

COMMANDS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("extract", "frames of the Toybox videos; goes on where it stopped", "data:extract", _DATA),
    ("index", "write the dirmap of a data set", "data:index", _DATA),
    ("sample", "balanced sample of toybox or ilab2mlight", "data:sample", _DATA),
    ("distribute", "copy iLab's sample into folders", "data:distribute", _DATA),
    ("sparse", "keep every n-th image of each session", "data:sparse", _DATA),
    ("upsample", "copy an image tree at 224 pixels", "data:upsample", _DATA),
    ("stats", "counts of a dirmap", "data:stats", _DATA),
    ("check", "is a data set whole and balanced?", "data:check", _DATA),
    ("lists", "write task file lists", "data:lists", _DATA),
    ("arms", "names of the ablation arms", "results:arms", ()),
    ("t-test", "paired t-tests of arms against the unablated runs", "results:t_test", ("scipy", "pandas")),
    ("shape-bias", "what disturbances cost CRUMB and a control", "results:shape_bias", ("scipy", "pandas")),
    ("summary", "final accuracies of runs, mean over runs", "results:summary", ("pandas",)),
    ("table", "every method in one table: accuracy, bytes, seconds", "results:table", ("yaml",)),
    ("merge", "join results of runs made apart", "results:merge", ("pandas",)),
    ("merge-csv", "stack csv tables of equal columns", "results:merge_csv", ("pandas",)),
    ("strip", "delete weights that were saved every epoch", "results:strip", ()),
    ("plot", "learning curves of runs", "figures:plot", _FIGURES),
    ("plot-epochs", "accuracy after every epoch of a run", "figures:plot_epochs", _FIGURES),
    ("usage", "figures of block usage and of slices against classes", "figures:usage", _FIGURES),
    ("overlay", "test images with the places that use a memory block in blue", "figures:overlay", _DATA),
)
