"""Small real data sets, one for each kind of label, cut from files that Python packages ship."""

from umedpt_lightning.data.demo.cache import default_folder, prepare
from umedpt_lightning.data.demo.report import Part, describe
from umedpt_lightning.data.demo.sources import SOURCES, Source

__all__ = ["SOURCES", "Part", "Source", "default_folder", "describe", "prepare"]
