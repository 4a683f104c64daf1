"""Names of the ``clk crumb ...`` commands; light."""

from __future__ import annotations

_DATA = ("pandas", "PIL")
_FIGURES = ("matplotlib",)

COMMANDS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("extract", "frames of the Toybox videos; goes on where it stopped", "extract", _DATA),
    ("index", "write the dirmap of a data set", "index", _DATA),
    ("sample", "balanced sample of toybox or ilab2mlight", "sample", _DATA),
    ("distribute", "copy iLab's sample into folders", "distribute", _DATA),
    ("sparse", "keep every n-th image of each session", "sparse", _DATA),
    ("upsample", "copy an image tree at 224 pixels", "upsample", _DATA),
    ("stats", "counts of a dirmap", "stats", _DATA),
    ("check", "is a data set whole and balanced?", "check", _DATA),
    ("lists", "write task file lists", "lists", _DATA),
    ("arms", "names of the ablation arms", "arms", ()),
    ("t-test", "paired t-tests of arms against the unablated runs", "t_test", ("scipy", "pandas")),
    ("shape-bias", "what disturbances cost CRUMB and a control", "shape_bias", ("scipy", "pandas")),
    ("summary", "final accuracies of runs, mean over runs", "summary", ("pandas",)),
    ("merge", "join results of runs made apart", "merge", ("pandas",)),
    ("merge-csv", "stack csv tables of equal columns", "merge_csv", ("pandas",)),
    ("strip", "delete weights that were saved every epoch", "strip", ()),
    ("plot", "learning curves of runs", "plot", _FIGURES),
    ("plot-epochs", "accuracy after every epoch of a run", "plot_epochs", _FIGURES),
    ("usage", "figures of block usage and of slices against classes", "usage", _FIGURES),
)
