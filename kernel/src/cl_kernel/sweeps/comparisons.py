"""Comparison runs on toy data, made in processes of their own while the run that they are compared with goes on."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from attrs import define, field

from cl_kernel.contract import events
from cl_kernel.contract.errors import Interrupted
from cl_kernel.running.signals import handling_signals
from cl_kernel.sweeps.tasks import run_task
from cl_kernel.sweeps.warm import Servers


@define(eq=False, repr=False)
class Comparisons:
    """Runs that wait for somebody to make them: a few processes, or whoever has nothing else to do.

    The processes begin when the first stage of the main run has ended: what it put into the cache need not be made
    again. A process that fails leaves its run to be finished by others; leaving early has the running ones save.

    :param runs: label -> run folder and request, in plain values.
    :param n: processes at once; 0 for none.
    :param listen: told what begins.
    """

    runs: Mapping[str, tuple[Path, Mapping[str, Any]]]
    n: int
    listen: Sequence[Callable[[events.Event], None]] = ()
    _left: deque[str] = field(init=False)
    _threads: list[threading.Thread] = field(factory=list, init=False)
    _stop: threading.Event = field(factory=threading.Event, init=False)
    _signal: int = field(default=0, init=False)
    _servers: Servers = field(factory=Servers, init=False)

    def __attrs_post_init__(self) -> None:
        self._left = deque(self.runs)

    def __enter__(self) -> Comparisons:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self._stop.set()
        for thread in self._threads:
            thread.join()
        self._servers.close()

    def __call__(self, event: events.Event) -> None:
        """Begin after the first stage."""
        if isinstance(event, events.StageEnded) and not self._threads:
            self._threads = [threading.Thread(target=self._work) for _ in range(min(self.n, len(self._left)))]
            for thread in self._threads:
                thread.start()

    def take(self) -> str | None:
        """A run that nobody has begun, for the caller to make."""
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def wait(self) -> None:
        """Wait until the processes have ended.

        :raises Interrupted: after a signal; what runs has saved itself.
        """
        with handling_signals(self._interrupt):
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(0.2)
        if self._signal:
            raise Interrupted(self._signal)

    def _interrupt(self, signum: int, _frame: FrameType | None) -> None:
        self._signal = signum
        self._stop.set()

    def _work(self) -> None:
        while not self._stop.is_set() and (label := self.take()) is not None:
            folder, request = self.runs[label]
            for tell in self.listen:
                tell(
                    events.Noted(
                        text=f"{label} for comparison, in a process of its own: {folder / 'log.txt'}", values={}
                    )
                )
            task = {"folder": str(folder), "request": request, "comparisons": False, "threads": 0, "retries": 0}
            run_task({**task, "framework": _framework_here()}, self._stop, self._servers)


def _framework_here() -> str:
    """What the main run has imported, and most likely its comparison runs will."""
    return next((name for name in ("torch", "tensorflow") if name in sys.modules), "numpy")
