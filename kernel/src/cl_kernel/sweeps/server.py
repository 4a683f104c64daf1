"""The warm process that runs are forked from: ``python -m cl_kernel.sweeps.server FD MODULE...``.

It imports what every run of one framework imports, and does nothing else: no accelerator is touched, no data is read.
For each request on the socket FD it forks a process that becomes an ordinary worker of one task; it tells the process
id and later the exit code through a pipe of the request's own. When the socket closes, it ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUMBER = struct.Struct("<i")
LARGEST = 1 << 20
"""Bytes of a request: a folder and an environment."""


def preload(modules: list[str]) -> None:
    """Import what runs will import; what cannot be imported is left to the runs, which say so themselves."""
    from cl_kernel.registry import discover

    discover()
    for module in ("cl_kernel.sweeps.worker", "cl_kernel.running.loop", "cl_kernel.memory", "numpy.ma", *modules):
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each request.

    :return: in a forked process its request; in the server None, when nobody asks any more.
    """
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(ended, False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    signal.set_wakeup_fd(wake)
    running: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == ended:
                    with contextlib.suppress(BlockingIOError):
                        os.read(ended, 4096)
                    _tell_ended(running)
                    continue
                data, fds, _, _ = socket.recv_fds(requests, LARGEST, 2)
                if not data:
                    return None
                status, life = fds
                if not (pid := os.fork()):
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    requests.close()
                    for other in (ended, wake, *running.values()):
                        os.close(other)
                    return {**json.loads(data), "life": life}
                os.close(life)
                running[pid] = status
                with contextlib.suppress(BrokenPipeError):
                    os.write(status, NUMBER.pack(pid))


def _tell_ended(running: dict[int, int]) -> None:
    for pid, code in _reaped():
        status = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(status, NUMBER.pack(code))
        os.close(status)


def _reaped() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, os.waitstatus_to_exitcode(code)


def become(request: dict[str, Any], modules: list[str]) -> int:
    """Run one task as a process started for it would: own session, log, environment, folder, chance."""
    import numpy as np

    from cl_kernel.sweeps import worker

    os.setsid()
    folder = Path(request["folder"])
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for source, target in ((request["life"], 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(request["life"])
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    np.random.seed()  # noqa: NPY002  # as in a new process: whatever draws from it is not to repeat the last run
    sys.argv = [worker.__file__, str(folder)]
    return worker.main(folder, preloaded=modules)


if __name__ == "__main__":
    names = sys.argv[2:]
    preload(names)
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(0 if asked is None else become(asked, names))
