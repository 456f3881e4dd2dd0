"""The label kinds, one a file."""

from umedpt_lightning.tasks.base import FeatureWidths, Task
from umedpt_lightning.tasks.classification import Classification
from umedpt_lightning.tasks.detection import Detection, Detections
from umedpt_lightning.tasks.imitation import ImitateEmbedding, ImitateMaps, Teacher
from umedpt_lightning.tasks.masked_images import MaskedImages
from umedpt_lightning.tasks.multilabel import MultilabelClassification
from umedpt_lightning.tasks.regression import Regression
from umedpt_lightning.tasks.segmentation import Segmentation
from umedpt_lightning.tasks.survival import Survival
from umedpt_lightning.types import (
    BoxSpec,
    ClassSpec,
    MaskSpec,
    MultilabelSpec,
    RegressionSpec,
    SurvivalSpec,
    TaskSpec,
    UnlabelledSpec,
)

#: The task that a label kind gets where the config names none.
DEFAULT_TASKS: dict[type[TaskSpec], type[Task]] = {
    ClassSpec: Classification,
    MultilabelSpec: MultilabelClassification,
    RegressionSpec: Regression,
    MaskSpec: Segmentation,
    BoxSpec: Detection,
    SurvivalSpec: Survival,
    UnlabelledSpec: MaskedImages,
}
#: Further tasks, which a config names.
OTHER_TASKS: tuple[type[Task], ...] = (ImitateEmbedding, ImitateMaps)


def default_task(spec: TaskSpec, name: str = "<name>") -> type[Task]:
    """The task that a spec gets where the config names none: that of its kind, or of the one that it derives from.

    Args:
        spec: What the data say of themselves.
        name: The task's name, for the message.

    Raises:
        ValueError: It is a kind of one's own, for which a task must be named.
    """
    for kind in type(spec).__mro__:
        if kind in DEFAULT_TASKS:
            return DEFAULT_TASKS[kind]
    raise ValueError(
        f"Task {name!r} has targets of the kind {type(spec).__name__}, for which there is no head by default. Name one "
        f"under model.tasks.{name}: {{class_path: your_module.YourTask}}."
    )


__all__ = [
    "DEFAULT_TASKS",
    "OTHER_TASKS",
    "Classification",
    "Detection",
    "Detections",
    "FeatureWidths",
    "ImitateEmbedding",
    "ImitateMaps",
    "MaskedImages",
    "MultilabelClassification",
    "Regression",
    "Segmentation",
    "Survival",
    "Task",
    "Teacher",
    "default_task",
]
