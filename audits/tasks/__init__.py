"""Tasks: data, model and loss in one value.

`--task digits | text | speech | speech_conformer | reuters | reuters52 | images | translation |
module:function`; speech may, and those behind it must, take their data from `--data PATH`.
"""

from audits.tasks.task import Draw, Family, Space, Task, Vast

__all__ = ["Draw", "Family", "Space", "Task", "Vast"]
