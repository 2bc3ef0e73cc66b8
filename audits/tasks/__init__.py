"""Tasks: data, model and loss in one value. `--task digits | text | module:function`."""

from audits.tasks.task import Draw, Family, Space, Task, Vast

__all__ = ["Draw", "Family", "Space", "Task", "Vast"]
