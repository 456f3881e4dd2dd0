"""``umedpt demo-data``: real images to try everything on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from umedpt_lightning.cli.options import clear_errors
from umedpt_lightning.data.demo import SOURCES, default_folder, describe, prepare


def main(command: str, arguments: Sequence[str]) -> None:
    """Prepares the demo's images and prints what there is."""
    parser = argparse.ArgumentParser(prog=f"umedpt {command}", description="Prepare the demo's images.")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where to put them (%(default)s)")
    with clear_errors():
        folder = prepare(parser.parse_args(arguments).folder)
    table = Table("task", "labels", "train", "val", "test", title=f"Demo data in {folder}", title_justify="left")
    parts = describe(folder)
    for task in dict.fromkeys(part.task for part in parts):
        of_task = {part.split: part for part in parts if part.task == task}
        images = [str(of_task[split].images) for split in ("train", "val", "test")]
        table.add_row(task, of_task["train"].kind, *images)
    Console().print(table)
    for licence in dict.fromkeys(source.licence for source in SOURCES.values()):
        shows = "; ".join(source.shows for source in SOURCES.values() if source.licence == licence)
        print(f"{shows}\n    {licence}")
