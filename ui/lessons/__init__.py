"""Five guided walks of a few minutes, on the embedded models, beside the live screen."""

from __future__ import annotations

from ui.lessons import averaging, competition, interference, norms, task_vectors
from ui.lessons.lesson import Lesson

_ALL = (task_vectors, averaging, interference, competition, norms)
LESSONS: dict[str, Lesson] = {module.LESSON.slug: module.LESSON for module in _ALL}
