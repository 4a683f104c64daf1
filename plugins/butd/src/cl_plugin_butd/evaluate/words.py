"""Questions and answers in the words of their data set."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from cl_kernel import Stream

SAID = {
    "right2": "two right of",
    "left2": "two left of",
    "up": "above",
    "down": "below",
    "up2": "two above",
    "down2": "two below",
    "right-up": "right above",
    "right-down": "right below",
    "left-up": "left above",
    "left-down": "left below",
}
"""How a direction is said, where its name and "of" would not do."""


@frozen
class Words:
    """Names of tasks, arguments and answers of a stream.

    Data sets say them in ``stage.info``: ``asks`` (or ``tasks`` by number, where a stage has several), ``arguments``
    and ``answers``; without them the names of stages and classes serve.
    """

    stream: Stream

    def _info(self, task: int) -> dict[str, Any]:
        stages = self.stream.stages
        return dict(stages[task if task < len(stages) else 0].info)

    def task(self, task: int) -> str:
        """As "right of"."""
        info, stages = self._info(task), self.stream.stages
        if "asks" in info:
            return str(info["asks"])
        names = info.get("tasks")
        if names and task < len(names):
            return str(names[task])
        if task >= len(stages) or len(stages) == 1:
            return f"task {task} of"
        *language, direction = stages[task].name.split(" ")
        return " ".join([*language, SAID.get(direction, f"{direction} of")])

    def ask(self, task: int, argument: int) -> str:
        """As "right of 7", "glasses of person 2"."""
        names = self._info(task).get("arguments") or self.stream.class_names
        return f"{self.task(task)} {names[argument] if argument < len(names) else argument}"

    def answer(self, task: int, label: int) -> str:
        """As "3", "border"."""
        names = self._info(task).get("answers") or self.stream.class_names
        return str(names[label]) if label < len(names) else str(label)
