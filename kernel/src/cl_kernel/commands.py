"""The commands ``clk NAME`` of the kernel: what each does, and the function that builds it, loaded when it is used.

Nothing is imported here, so that ``clk --help`` starts in a few times the interpreter's own start-up.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run an experiment", "cl_kernel.cli.run:run"),
    "run-all": ("run everything of a plugin, as a sweep", "cl_kernel.sweeps.commands:run_all"),
    "resume": ("go on with an interrupted run", "cl_kernel.cli.run:resume"),
    "extend": ("go on with a finished run over further stages", "cl_kernel.cli.run:extend"),
    "reproduce": ("run a finished run again and compare digests", "cl_kernel.cli.run:reproduce"),
    "sweep": ("run a grid of experiments, here or on a cluster", "cl_kernel.sweeps.commands:sweep"),
    "runs": ("list runs", "cl_kernel.cli.show:runs"),
    "show": ("show a test's settings and where each value comes from, or a run", "cl_kernel.cli.show:show"),
    "score": ("score a finished run again, by other metrics or on other data", "cl_kernel.library.score_command:score"),
    "metrics": ("metrics of a run, also by other frameworks' conventions", "cl_kernel.reports.metrics_command:metrics"),
    "compare": ("compare runs in one table", "cl_kernel.reports.commands:compare"),
    "plot": ("a figure of several runs for a paper", "cl_kernel.reports.plot_command:plot"),
    "report": ("one HTML page about one or more runs", "cl_kernel.reports.commands:report"),
    "list": ("list what plugins offer", "cl_kernel.cli.show:list_offers"),
    "model": (
        "layers of a network, what crosses at each and what it takes",
        "cl_kernel.library.backbones.command:model",
    ),
    "plugins": ("list plugins, broken ones with the reason", "cl_kernel.cli.show:plugins"),
    "data": ("list or prepare data sets", "cl_kernel.library.data_command:data"),
    "cache": ("list or remove what runs share in the cache", "cl_kernel.library.cache_command:cache"),
    "doctor": ("say what works here and why not", "cl_kernel.testing.doctor:doctor"),
    "new-plugin": ("write a package for a plugin of your own", "cl_kernel.testing.commands:new_plugin"),
    "completion": ("print what a shell needs to complete clk", "cl_kernel.library.completion:completion"),
    "check-plugin": ("run the conformance kit on a plugin", "cl_kernel.testing.commands:check_plugin"),
}
COMPLETE = "cl_kernel.library.completion:answer"
"""Answers a shell that asks how a line goes on."""
