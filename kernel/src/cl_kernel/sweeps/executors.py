"""Executors of the kernel: processes here, a Ray cluster; SLURM is in :mod:`cl_kernel.sweeps.slurm`."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from attrs import define

from cl_kernel.contract.errors import BadSetting, ClkError
from cl_kernel.running.resources import n_cores
from cl_kernel.sweeps.tasks import run_task
from cl_kernel.sweeps.warm import Servers

STARTS = 4
"""How often a local Ray instance is tried: Ray gives its node half a minute, too little on a busy machine."""
Outcome = tuple[int, Mapping[str, Any]]


@define
class Local:
    """Processes on this machine, as many at once as its cores (or accelerators) carry."""

    threads: int = 1
    gpus: int = 0

    def map(self, tasks: Sequence[Mapping[str, Any]], n_jobs: int) -> Iterator[Outcome]:
        """Run tasks; leaving early has the running ones save themselves."""
        devices = _devices() if self.gpus else []
        if self.gpus > len(devices):
            raise BadSetting(f"gpus = {self.gpus} a task, but this machine shows {len(devices)}", where="gpus")
        room = len(devices) // self.gpus if self.gpus else max(1, n_cores() // max(1, self.threads))
        n_jobs = min(n_jobs or room, room) if self.gpus else n_jobs or room
        free: queue.Queue[list[str]] = queue.Queue()
        for k in range(n_jobs):
            free.put(devices[k * self.gpus : (k + 1) * self.gpus])
        stop = threading.Event()

        def run(task: Mapping[str, Any]) -> Mapping[str, Any]:
            given = free.get()
            try:
                visible = {"CUDA_VISIBLE_DEVICES": ",".join(given)} if given else {}
                return run_task({**task, "environment": visible}, stop, servers)
            finally:
                free.put(given)

        servers = Servers()
        pool = ThreadPoolExecutor(n_jobs)
        futures = {pool.submit(run, task): index for index, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            servers.close()


def _devices() -> list[str]:
    import shutil
    import subprocess

    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(k) for k, line in enumerate(listed.splitlines()) if line.startswith("GPU")]


def build_local(options: Mapping[str, Any]) -> Local:
    """Processes on this machine."""
    return Local(options.get("threads", 1), options.get("gpus", 0))


@define
class Ray:
    """Tasks of a Ray cluster; each starts the run as a process. A task whose worker dies is taken up again."""

    address: str = ""
    threads: int = 1
    gpus: int = 0
    retries: int = 2

    def map(self, tasks: Sequence[Mapping[str, Any]], n_jobs: int) -> Iterator[Outcome]:
        """Run tasks on the cluster, at most ``n_jobs`` at once (0: as many as it carries)."""
        import logging

        import ray

        here = self.address in ("", "local")
        _reach(self.address)
        cores = {"num_cpus": max(n_jobs * self.threads, 1) if n_jobs else n_cores()} if here else {}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        for attempt in range(STARTS):
            try:
                ray.init(
                    address="local" if here else self.address,
                    include_dashboard=False if here else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **cores,
                )
                break
            except ConnectionError as error:
                raise _no_cluster(self.address, error) from error
            except Exception as error:  # Ray raises nothing narrower when its node is slow to start
                ray.shutdown()
                if "startup" not in str(error) or attempt == STARTS - 1:
                    raise ClkError(f"Ray does not start: {error}", where="--executor ray") from error
        remote = ray.remote(run_task).options(num_cpus=self.threads, num_gpus=self.gpus, max_retries=self.retries)
        left = list(enumerate(tasks))[::-1]
        running: dict[Any, int] = {}
        try:
            while left or running:
                while left and (not n_jobs or len(running) < n_jobs):
                    index, task = left.pop()
                    running[remote.remote(dict(task))] = index
                done, _ = ray.wait(list(running), num_returns=1)
                for reference in done:
                    index = running.pop(reference)
                    try:
                        yield index, ray.get(reference)
                    except ray.exceptions.RayError as error:
                        text = str(error).strip().splitlines()[0]
                        yield index, {"status": "failed", "error": f"{type(error).__name__}: {text}"}
        finally:
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=60)
            ray.shutdown()


def _reach(address: str) -> None:
    """Ray waits minutes for a cluster that is not there; say so at once."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ClkError:
    return ClkError(
        f"no Ray cluster at {address!r}: {error}",
        where="--address",
        fix="ray start --head, or leave --address out for a local instance",
    )


def build_ray(options: Mapping[str, Any]) -> Ray:
    """A Ray cluster by ``address``, or a local instance."""
    return Ray(options.get("address", ""), options.get("threads", 1), options.get("gpus", 0), options.get("retries", 2))
