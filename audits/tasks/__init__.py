"""Tasks: data, model and loss in one value.

`--task digits | text | reuters | reuters52 | images | translation | module:function`; those between
`text` and your own take their data from `--data PATH`.
"""

from audits.tasks.task import Draw, Family, Space, Task, Vast

__all__ = ["Draw", "Family", "Space", "Task", "Vast"]
