"""Every learner goes on exactly where it stood when it was killed, at the places that are easy to get wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from cl_kernel.testing.subject import Failed, NotApplicable, Subject, check


@check
def every_learner_resumes_after_each_epoch(subject: Subject) -> str:
    """Killed at the steps after the end of each epoch, short last batch included, every learner ends the same."""
    if not hasattr(os, "fork"):
        raise NotApplicable("is looked at on a system without fork")
    subject.some("learner")
    folder = subject.folder / "killed"
    folder.mkdir(exist_ok=True)
    asked = {
        "plugin": subject.plugin,
        "folder": str(folder),
        "test": subject.test,
        "settings": dict(subject.settings),
        "only": list(subject.only),
    }
    done = subprocess.run(
        [sys.executable, "-m", "cl_kernel.testing.killing"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=subject.environment(),
        check=False,
    )
    seen = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said = done.stderr.strip()[-800:]
    if wrong := [one["failed"] for one in seen if "failed" in one]:
        raise Failed(f"{' | '.join(wrong)}: {said}")
    if done.returncode:
        raise Failed(f"looking at learners ends with code {done.returncode}: {said}")
    looked, missed = [one for one in seen if one["steps"]], [one["learner"] for one in seen if not one["steps"]]
    n_kills = sum(len(one["kills"]) for one in looked)
    more = f"; no run could be put together for {', '.join(missed)}" if missed else ""
    return f"{len(looked)} learners, {n_kills} kills{more}"
