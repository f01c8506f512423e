"""A BMC's tasks: what it answers with 202 and carries out a while later (DSP0266, asynchronous operations)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from curtaild_emulator.bmc.messages import extended
from curtaild_emulator.bmc.resources import ROOT, Resource
from curtaild_emulator.gpu_node import GpuNode

_TASK_S = 10.0


@dataclass(slots=True)
class Task:
    """One task, and how it stands."""

    number: int
    state: str = "Running"

    @property
    def path(self) -> str:
        return f"{ROOT}/TaskService/Tasks/{self.number}"

    @property
    def monitor(self) -> str:
        return f"{ROOT}/TaskService/TaskMonitors/{self.number}"

    @property
    def is_done(self) -> bool:
        return self.state != "Running"

    def told(self) -> Resource:
        """The Task resource."""
        told: Resource = {
            "@odata.id": self.path,
            "@odata.type": "#Task.v1_7_3.Task",
            "Id": str(self.number),
            "Name": f"Task {self.number}",
            "TaskState": self.state,
            "TaskStatus": "Critical" if self.state == "Exception" else "OK",
            "TaskMonitor": self.monitor,
        }
        if self.state == "Exception":
            told["Messages"] = [extended("InternalError", "The request failed due to an internal service error.")]
        return told


class Tasks:
    """The tasks of one BMC, in plant time."""

    def __init__(self, node: GpuNode) -> None:
        self._node = node
        self._tasks: list[Task] = []

    def begin(self, verb: Callable[[], None], *, fails: bool) -> Task:
        """Carry out `verb` ten seconds of plant time from now, or fail then without doing anything."""
        task = Task(len(self._tasks) + 1)
        self._tasks.append(task)

        def finish() -> None:
            if not fails:
                verb()
            task.state = "Exception" if fails else "Completed"

        self._node.later(_TASK_S, finish)
        return task

    @property
    def paths(self) -> list[str]:
        return [task.path for task in self._tasks]

    def at(self, path: str) -> Task | None:
        """The task whose resource or monitor is at `path`."""
        return next((task for task in self._tasks if path in (task.path, task.monitor)), None)
