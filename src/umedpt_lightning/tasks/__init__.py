"""The label types, one a file."""

from umedpt_lightning.tasks.base import FeatureWidths, Task
from umedpt_lightning.tasks.classification import Classification
from umedpt_lightning.tasks.detection import Detection, Detections
from umedpt_lightning.tasks.multilabel import MultilabelClassification
from umedpt_lightning.tasks.regression import Regression
from umedpt_lightning.tasks.segmentation import Segmentation
from umedpt_lightning.types import BoxSpec, ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, TaskSpec

#: The task that a label type gets where the config names none.
DEFAULT_TASKS: dict[type[TaskSpec], type[Task]] = {
    ClassSpec: Classification,
    MultilabelSpec: MultilabelClassification,
    RegressionSpec: Regression,
    MaskSpec: Segmentation,
    BoxSpec: Detection,
}

__all__ = [
    "DEFAULT_TASKS",
    "Classification",
    "Detection",
    "Detections",
    "FeatureWidths",
    "MultilabelClassification",
    "Regression",
    "Segmentation",
    "Task",
]
