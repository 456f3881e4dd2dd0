"""From checkpoints to folders and graphs that are used elsewhere."""

from umedpt_lightning.export.boxes import select_boxes
from umedpt_lightning.export.onnx import export_onnx
from umedpt_lightning.export.program import EncoderGraph, Program, TaskGraph, export_program

__all__ = ["EncoderGraph", "Program", "TaskGraph", "export_onnx", "export_program", "select_boxes"]
