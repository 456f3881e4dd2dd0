"""``umedpt medmnist``: encoders on the twelve 2-D sets of MedMNIST, beside published figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import jsonargparse

from umedpt_lightning.cli.options import add_sweep_options, clear_errors, device_of, fill_root
from umedpt_lightning.cli.parser_errors import parse
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.io.atomic import write_text
from umedpt_lightning.transfer.medmnist import SETS, MedMNISTProtocol, as_csv, measure, table


def main(command: str, arguments: Sequence[str]) -> None:
    """Runs what is not finished, and writes the table."""
    parser = jsonargparse.ArgumentParser(
        prog=f"umedpt {command}",
        description="Accuracy and AUC of encoders on the twelve 2-D sets of MedMNIST. Sets that are not there are left "
        "out; what is finished in the run's folder is not run again.",
    )
    add_sweep_options(parser)
    parser.add_class_arguments(MedMNISTProtocol, "medmnist")
    config = parse(parser, arguments)
    with clear_errors():
        _run(parser, fill_root(config, config.root))


def _run(parser: jsonargparse.ArgumentParser, config: jsonargparse.Namespace) -> None:
    folder = config.run or Path(time.strftime("runs/%Y%m%d-%H%M%S"))
    protocol: MedMNISTProtocol = parser.instantiate(config).medmnist
    device = device_of(config.device)
    missing: list[str] = []
    entries = list(measure(protocol, folder / "cells", ComputeOptions(device, num_workers=config.num_workers), missing))
    if missing:
        print(f"left out, since not in {protocol.folder}: {', '.join(missing)}")
    if not entries:
        raise ValueError(
            f"medmnist.folder: {protocol.folder} holds none of the {len(SETS)} sets at {protocol.sizes} pixels. Get "
            "them with the package medmnist, or from https://medmnist.com."
        )
    written = table(entries)
    write_text(folder / "medmnist.md", written)
    write_text(folder / "medmnist.csv", as_csv(entries))
    print(f"accuracy / AUC on the test parts, per cent\n\n{written}\ntable: {folder / 'medmnist.md'}")
