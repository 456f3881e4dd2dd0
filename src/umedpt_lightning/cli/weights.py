"""``umedpt weights``: ImageNet weights without a model hub."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from umedpt_lightning.blocks.timm_encoder.imagenet import MODEL, PACKAGE, write_efficientnet_lite0
from umedpt_lightning.cli.options import clear_errors


def main(command: str, arguments: Sequence[str]) -> None:
    """Writes the file and prints how a config names it."""
    description = f"Write ImageNet weights of {MODEL} from the package {PACKAGE} as a file for `encoder.weights`."
    parser = argparse.ArgumentParser(prog=f"umedpt {command}", description=description)
    parser.add_argument("--out", type=Path, default=Path(f"{MODEL}.safetensors"), help="the file (%(default)s)")
    file = parser.parse_args(arguments).out
    with clear_errors():
        write_efficientnet_lite0(file)
    print(f"encoder: {{class_path: Encoder, init_args: {{name: {MODEL}, weights: {file}}}}}")
