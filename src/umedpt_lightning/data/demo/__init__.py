"""Small real data sets, one for each kind of label, cut from files that Python packages ship."""

from umedpt_lightning.data.demo.cache import Part, default_folder, describe, prepare
from umedpt_lightning.data.demo.sources import SOURCES, Source

__all__ = ["SOURCES", "Part", "Source", "default_folder", "describe", "prepare"]
