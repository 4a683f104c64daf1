"""SLURM jobs through submitit, found again by a sweep whose watcher died."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define

from cl_kernel.contract.errors import BadSetting, ClkError
from cl_kernel.storage.files import write_json
from cl_kernel.storage.run_folder import read_json
from cl_kernel.sweeps.tasks import outcome_of, run_task

JOBS = "jobs.json"
"""Beside submitit's logs: name of a task's folder -> number of its job."""

SETTLED_S = 0.5
Outcome = tuple[int, Mapping[str, Any]]


class Requeued:
    """A task that SLURM may preempt: it is queued again and goes on from its checkpoint."""

    def __call__(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Run it."""
        return run_task(task)

    def checkpoint(self, task: Mapping[str, Any]) -> Any:
        """Called by submitit before a preempted or timed-out job ends."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task)


@define
class Slurm:
    """SLURM jobs, one array, through submitit; ``parameters`` are submitit's (partition, timeout_min, ...)."""

    parameters: Mapping[str, Any]
    threads: int = 1
    gpus: int = 0

    def map(self, tasks: Sequence[Mapping[str, Any]], n_jobs: int) -> Iterator[Outcome]:
        """Submit tasks and wait for them; the jobs go on when this process ends, and are found again by the next.

        :raises BadSetting: for parameters that submitit does not take, or where there is no SLURM.
        """
        logs = Path(tasks[0]["folder"]).parent / "slurm"
        executor = self._executor(logs, n_jobs)
        known = read_json(logs / JOBS) if (logs / JOBS).exists() else {}
        jobs = self._running(executor, logs, tasks, known)
        left = [index for index in range(len(tasks)) if index not in jobs]
        if left:
            try:
                submitted = executor.map_array(Requeued(), [tasks[index] for index in left])
            except (OSError, RuntimeError, AssertionError) as error:
                raise ClkError(f"SLURM takes no job: {_said(error)}", where="slurm") from error
            known.update({Path(tasks[i]["folder"]).name: job.job_id for i, job in zip(left, submitted, strict=True)})
            write_json(logs / JOBS, known)
            jobs.update(zip(left, submitted, strict=True))
        yield from _ended(jobs, tasks)

    def _executor(self, logs: Path, n_jobs: int) -> Any:
        import submitit

        parameters = dict(self.parameters)
        cluster = parameters.pop("cluster", "slurm")
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise BadSetting(
                "there is no SLURM here: no command sbatch",
                where="--executor slurm",
                fix="start it on a login node, or give --executor local, or slurm: {cluster: local} in the sweep file",
            )
        try:
            executor = submitit.AutoExecutor(logs, cluster=cluster)
            gpus = {"gpus_per_node": self.gpus} if self.gpus else {}
            arrays = {"slurm_array_parallelism": n_jobs} if n_jobs and executor.cluster == "slurm" else {}
            executor.update_parameters(cpus_per_task=self.threads, **gpus, **arrays, **parameters)
        except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
            given = ", ".join(f"{key} = {value!r}" for key, value in self.parameters.items())
            raise BadSetting(f"submitit takes no {given}: {_said(error)}", where="slurm") from error
        return executor

    def _running(
        self, executor: Any, logs: Path, tasks: Sequence[Mapping[str, Any]], known: Mapping[str, str]
    ) -> dict[int, Any]:
        """Jobs of an earlier watcher that go on, or finished meanwhile, by the index of their task."""
        import submitit

        make = submitit.SlurmJob if executor.cluster == "slurm" else submitit.LocalJob
        found = {}
        for index, task in enumerate(tasks):
            if (number := known.get(Path(task["folder"]).name)) is not None:
                job = make(logs, number)
                if not over(job) or outcome_of(Path(task["folder"]))["status"] == "finished":
                    found[index] = job
        return found


def over(job: Any) -> bool:
    """Whether a job has ended; one of this machine that another process started is asked for by its number."""
    import submitit

    if isinstance(job, submitit.LocalJob) and job._process is None:
        return job.paths.result_pickle.exists() or not _alive(int(job.job_id))
    return bool(job.done(force_check=True))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        command = Path(f"/proc/{process}/cmdline")
        return b"submitit" in command.read_bytes() if command.exists() else True
    except OSError:
        return False


def _ended(jobs: dict[int, Any], tasks: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
    while jobs:
        for index in [index for index, job in jobs.items() if job.done() and over(job)]:
            yield index, _outcome(jobs.pop(index), Path(tasks[index]["folder"]))
        time.sleep(SETTLED_S if jobs else 0)


def _outcome(job: Any, folder: Path) -> Mapping[str, Any]:
    if not job.paths.result_pickle.exists():
        found = outcome_of(folder)
        if found["status"] in ("finished", "interrupted"):
            return found
    if (trouble := job.exception()) is None:
        result: Mapping[str, Any] = job.result()
        return result
    return {"status": "failed", "error": str(trouble).strip().splitlines()[-1]}


def _said(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def build_slurm(options: Mapping[str, Any]) -> Slurm:
    """SLURM through submitit; ``slurm: {cluster: local}`` runs its jobs here."""
    return Slurm(options.get("slurm", {}), options.get("threads", 1), options.get("gpus", 0))
