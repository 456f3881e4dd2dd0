"""Label kinds, one a file: all that the program asks of targets and predictions. Only numpy is needed here."""

from umedpt_lightning.labels.base import IGNORE_INDEX, Form, TableRow, TaskSpec
from umedpt_lightning.labels.boxes import BoxArrays, BoxSpec
from umedpt_lightning.labels.classes import ClassSpec
from umedpt_lightning.labels.findings import Finding
from umedpt_lightning.labels.masks import MaskSpec
from umedpt_lightning.labels.multilabel import MultilabelSpec
from umedpt_lightning.labels.numbers import RegressionSpec
from umedpt_lightning.labels.survival import SurvivalSpec
from umedpt_lightning.labels.unlabelled import UnlabelledSpec
from umedpt_lightning.labels.views import (
    Bar,
    BoxLayer,
    Chart,
    Curve,
    Layer,
    LegendEntry,
    Line,
    MaskLayer,
    Number,
    PageView,
    PixelLayer,
    View,
)

__all__ = [
    "IGNORE_INDEX",
    "Bar",
    "BoxArrays",
    "BoxLayer",
    "BoxSpec",
    "Chart",
    "ClassSpec",
    "Curve",
    "Finding",
    "Form",
    "Layer",
    "LegendEntry",
    "Line",
    "MaskLayer",
    "MaskSpec",
    "MultilabelSpec",
    "Number",
    "PageView",
    "PixelLayer",
    "RegressionSpec",
    "SurvivalSpec",
    "TableRow",
    "TaskSpec",
    "UnlabelledSpec",
    "View",
]
