"""Readers: one on-disk format a file."""

from umedpt_lightning.data.formats.table import Table
from umedpt_lightning.data.readers.bags import Bags
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.readers.coco import CocoBoxes, CocoMasks
from umedpt_lightning.data.readers.folders import ClassFolders, MaskFolders
from umedpt_lightning.data.readers.manifest import (
    ManifestClasses,
    ManifestLabels,
    ManifestMasks,
    ManifestNumbers,
    ManifestSurvival,
)
from umedpt_lightning.data.readers.medmnist import MedMNIST, MedMNISTMultilabel
from umedpt_lightning.data.readers.named_classes import NamedClasses
from umedpt_lightning.data.readers.npy_masks import NpyMasks
from umedpt_lightning.data.readers.packed import Packed
from umedpt_lightning.data.readers.run_lengths import RunLengthMasks
from umedpt_lightning.data.readers.slide_annotations import SlideBoxes, SlideMasks, SlideRegions
from umedpt_lightning.data.readers.slides import SlideClasses, SlideLabels, SlideNumbers
from umedpt_lightning.data.readers.split import FileSplit, Split
from umedpt_lightning.data.readers.subset import Centres, Subset
from umedpt_lightning.data.readers.table_boxes import TableBoxes
from umedpt_lightning.data.readers.unlabelled import Unlabelled, UnlabelledFolder
from umedpt_lightning.data.readers.voc import VocBoxes
from umedpt_lightning.data.readers.volumes import (
    VolumeClasses,
    VolumeLabels,
    VolumeMaskFolders,
    VolumeMasks,
    VolumeNumbers,
)

__all__ = [
    "Bags",
    "Centres",
    "ClassFolders",
    "CocoBoxes",
    "CocoMasks",
    "FileSplit",
    "ManifestClasses",
    "ManifestLabels",
    "ManifestMasks",
    "ManifestNumbers",
    "ManifestSurvival",
    "MaskFolders",
    "MedMNIST",
    "MedMNISTMultilabel",
    "NamedClasses",
    "NpyMasks",
    "Packed",
    "Reader",
    "RunLengthMasks",
    "SlideBoxes",
    "SlideClasses",
    "SlideLabels",
    "SlideMasks",
    "SlideNumbers",
    "SlideRegions",
    "Split",
    "Subset",
    "Table",
    "TableBoxes",
    "Unlabelled",
    "UnlabelledFolder",
    "VocBoxes",
    "VolumeClasses",
    "VolumeLabels",
    "VolumeMaskFolders",
    "VolumeMasks",
    "VolumeNumbers",
]
