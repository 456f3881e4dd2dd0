"""``umedpt data pack``: the samples of a config in shards, to be read from a server or a bucket."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from umedpt_lightning.cli.data_tasks import make_reader, read_config
from umedpt_lightning.cli.options import at_least, clear_errors, cores
from umedpt_lightning.cli.task_files import PARTS, in_words, load
from umedpt_lightning.data.formats.text_files import read_text
from umedpt_lightning.data.shards.pack import pack_reader
from umedpt_lightning.io.atomic import write_text
from umedpt_lightning.labels.wording import count

#: A bar over so many samples, which gives what moves it on.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def add_pack_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `pack` reads, besides those of all commands on data."""
    parser.add_argument("--out", type=_folder, required=True, help="folder for the shards")
    parser.add_argument("--tasks", type=in_words, default=[], metavar="A,B", help="pack these tasks only")
    parser.add_argument("--shard_mib", type=at_least(1), default=64, help="size of a shard, about (%(default)s MiB)")
    parser.add_argument("--workers", type=at_least(0), default=cores(), help="processes (%(default)s, one a core)")


def pack(options: argparse.Namespace, progress: Progress) -> None:
    """Packs every part of every task, and writes ``tasks.yaml``, which describes them."""
    out: Path = options.out
    file = out / "tasks.yaml"
    with clear_errors():
        earlier = _earlier(file, options.config)
        tasks = read_config(options.config, options.root, options.tasks)
        for name, task in tasks.items():
            for part in PARTS:
                if task.get(part):
                    _pack_part(task, name, part, options, progress)
        described = {"root": str(out), "data": {"tasks": (earlier if options.tasks else {}) | tasks}}
        write_text(file, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    print(f"tasks: {file}")


def _folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is an address. Name a folder here, and copy it to there")
    return Path(text).expanduser().absolute()


def _earlier(file: Path, configs: Sequence[Path]) -> dict[str, Any]:
    """The tasks that an earlier pack described in a file; raises ValueError where it is another one."""
    if not file.is_file():
        return {}
    if "class_path: Packed" not in read_text(file) or any(config.resolve() == file.resolve() for config in configs):
        raise ValueError(f"{file}: it would be written over. Name another folder with --out.")
    return dict(load(file)["data"]["tasks"])


def _pack_part(task: dict[str, Any], name: str, part: str, options: argparse.Namespace, progress: Progress) -> None:
    """Packs a part, and lets the task read it."""
    task[part] = holder = copy.deepcopy(task[part])
    key = f"data.tasks.{name}.{part}"
    with clear_errors(key):
        reader, around = make_reader(holder), None
        while reader.spec.bag:  # its images are packed, and put into bags when they are read
            inner = (holder.get("init_args") or {}).get("reader")
            if inner is None:
                raise ValueError("its samples are bags, but it has no `reader` of their images, which could be packed.")
            around, holder = holder, inner
            reader = make_reader(holder)
        with progress(f"{name} {part}", len(reader)) as advance:
            written = pack_reader(reader, options.out / name / part, options.shard_mib << 20, options.workers, advance)
    packed = {"class_path": "Packed", "init_args": {"address": f"${{root}}/{name}/{part}"}}
    if reader.draws:  # something else in each pass, which the packed samples have not
        packed = {"class_path": "Unlabelled", "init_args": {"reader": packed}}
    if around is None:
        task[part] = packed
    else:
        around["init_args"]["reader"] = packed
    size = sum(file.stat().st_size for file in (options.out / name / part).iterdir())
    print(f"{name} {part}: {count(len(reader), 'sample')}, {size / 2**20:,.1f} MiB{'' if written else ', as before'}")
