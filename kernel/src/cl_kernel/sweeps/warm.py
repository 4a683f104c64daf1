"""Processes for runs, forked from warm servers: one server a framework and environment, started when first needed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from attrs import define, field

from cl_kernel.sweeps.server import NUMBER

PRELOADED = {"torch": ("torch", "torch._dynamo"), "tensorflow": ("tensorflow",), "numpy": ()}
"""Framework -> what its runs import; torch's optimisers import its compiler when the first is built."""
BEFORE_IMPORT = ("PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that are read while modules load, so that a server is for one value of each."""
LOST = -9
"""Code of a process whose end nobody saw, because its server was killed."""


@define
class WarmProcess:
    """A forked process; the part of :class:`subprocess.Popen` that tasks need.

    :param status: file descriptor that gives the exit code, and ends when server and process are gone.
    :param stdin: while it is open the process runs; when its holder dies, the process saves itself and ends.
    """

    pid: int
    status: int
    stdin: IO[bytes]
    returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal.

        :raises subprocess.TimeoutExpired: when it still runs.
        """
        if self.returncode is None:
            if not select.select([self.status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            told = os.read(self.status, NUMBER.size)
            self.returncode = NUMBER.unpack(told)[0] if told else LOST
            os.close(self.status)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def terminate(self) -> None:
        """Ask it to save itself and end."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 15)


@define
class _Server:
    process: subprocess.Popen[bytes]
    requests: socket.socket


@define
class Servers:
    """Warm servers of one sweep."""

    _servers: dict[tuple[str, ...], _Server] = field(factory=dict)
    _lock: threading.Lock = field(factory=threading.Lock)

    def close(self) -> None:
        """End the servers; what they started goes on."""
        with self._lock:
            for server in self._servers.values():
                _end(server)
            self._servers.clear()

    def start(self, folder: Path, environment: Mapping[str, str], framework: str) -> WarmProcess | None:
        """A process that runs the task in ``folder``; None where none can be forked, so that it is started cold."""
        if sys.platform != "linux" or framework not in PRELOADED:
            return None
        request = json.dumps({"folder": str(folder), "environment": dict(environment)}).encode()
        for _ in range(2):  # the second time with a new server: the first may have been killed
            if (process := self._ask(request, environment, framework)) is not None:
                return process
        return None

    def _ask(self, request: bytes, environment: Mapping[str, str], framework: str) -> WarmProcess | None:
        key = (framework, str(Path.cwd()), *(environment.get(name, "") for name in BEFORE_IMPORT))
        server = None
        status, status_of_child = os.pipe()
        life_of_child, life = os.pipe()
        try:
            with self._lock:
                if key not in self._servers:
                    self._servers[key] = _begin(PRELOADED[framework], environment)
                server = self._servers[key]
                socket.send_fds(server.requests, [request], [status_of_child, life_of_child])
            told = None
        except OSError:
            told = b""
        finally:
            os.close(status_of_child)
            os.close(life_of_child)
        if told is None:
            told = os.read(status, NUMBER.size)
        if told:
            return WarmProcess(NUMBER.unpack(told)[0], status, os.fdopen(life, "wb", buffering=0))
        os.close(status)
        os.close(life)
        with self._lock:
            if server is not None and self._servers.get(key) is server:
                _end(self._servers.pop(key))
        return None


def _begin(modules: tuple[str, ...], environment: Mapping[str, str]) -> _Server:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with theirs:
        command = [sys.executable, "-m", "cl_kernel.sweeps.server", str(theirs.fileno()), *modules]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return _Server(process, ours)


def _end(server: _Server) -> None:
    server.requests.close()
    server.process.wait()
