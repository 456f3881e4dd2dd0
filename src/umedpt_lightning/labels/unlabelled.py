"""Images without labels, of which a task makes its own targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from umedpt_lightning.labels.base import TaskSpec
from umedpt_lightning.labels.views import Line, View


@dataclass(frozen=True, kw_only=True)
class UnlabelledSpec(TaskSpec):
    """Nothing is known of an image; a target is a number that seeds what the task draws for it, see `Task.prepare`."""

    kind: ClassVar[str] = "unlabelled"
    title: ClassVar[str] = "no labels"

    def prepared(self, target: Any, size: tuple[int, int]) -> int:
        """The number; raises ValueError for anything else."""
        if isinstance(target, bool) or not isinstance(target, int):
            raise ValueError(
                f"A sample without labels has a whole number as target, but this one has {target!r:.60}. Read it by "
                "`Unlabelled` or `UnlabelledFolder`."
            )
        return target

    def truth_view(self, target: Any) -> View:
        """That there is none."""
        return View((Line(self.title),))
