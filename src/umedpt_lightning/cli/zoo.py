"""``umedpt zoo``: public data sets, how they lie on a disk, and a config that trains on them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from umedpt_lightning.labels.wording import near

FOLDER = Path(__file__).parents[1] / "zoo"
#: What every file says of its set, with what a reader of `show` calls it, in this order.
FACTS = {
    "title": "set",
    "family": "family",
    "modality": "images",
    "labels": "labels",
    "size": "size",
    "page": "page",
    "licence": "licence",
    "citation": "cite",
    "split": "split",
}
_WIDTH = 100
#: What a config needs beside its tasks; the encoder has no weights, so that it trains without a network.
_REST = """\
trainer: {max_epochs: 20}
model:
  encoder:
    class_path: Encoder
    init_args: {name: tf_efficientnet_lite0, weights: null}  # timm, or the file that umedpt weights writes
"""

Set = Mapping[str, Any]


def main(command: str, arguments: Sequence[str]) -> None:
    """Prints a list, a set, a config, or the table of the documentation.

    Raises:
        SystemExit: With a line on what the user can mend.
    """
    options = _parser(command).parse_args(arguments)
    try:
        options.run(options)
    except ValueError as error:
        raise SystemExit(f"umedpt: error: {error}") from error


@cache
def sets() -> dict[str, Set]:
    """All sets by name, as their files say."""
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.yaml"))}


def config(names: Iterable[str], commercial: bool = False) -> str:
    """A config of all tasks of some sets, with their licences above it.

    Args:
        names: Of the sets.
        commercial: Refuse sets that are for non-commercial use only.

    Raises:
        ValueError: There is no such set, or it is refused.
    """
    chosen = {name: _find(name) for name in names}
    refused = [name for name, one in chosen.items() if commercial and one["non_commercial"]]
    if refused:
        raise ValueError(f"{', '.join(refused)}: for non-commercial use only. Leave out the set, or --commercial.")
    tasks = {task: options for one in chosen.values() for task, options in one["tasks"].items()}
    lines = ["# Unpack each set into ROOT/NAME, and start with --root ROOT. `umedpt zoo show NAME` tells more.", "#"]
    lines += [f"# {name}: {one['licence']}. {one['citation']}." for name, one in chosen.items()]
    described = yaml.dump({"data": {"tasks": tasks}}, Dumper=_WithoutAnchors, sort_keys=False, width=_WIDTH)
    return "\n".join(lines) + "\n" + _REST + described


def table() -> str:
    """All sets as a table of Markdown."""
    rows = ["| Set | Images | Labels | Size | Licence | Split |", "| --- | --- | --- | --- | --- | --- |"]
    for family in _families():
        rows.append(f"| **{family}** | | | | | |")
        for name, one in sets().items():
            if one["family"] == family:
                licence = f"**{one['licence']}**" if one["non_commercial"] else one["licence"]
                cells = f"[`{name}`]({one['page']}) {one['title']}", one["modality"], one["labels"], one["size"]
                rows.append("| " + " | ".join((*cells, licence, one["split"])).replace("\n", " ") + " |")
    return "\n".join(rows) + "\n"


def _list(options: argparse.Namespace) -> None:
    shown = Table("set", "family", "labels", "size", "licence")
    for name, one in sets().items():
        if not (options.commercial and one["non_commercial"]) and options.family in (None, one["family"]):
            licence = f"{one['licence']} (non-commercial)" if one["non_commercial"] else one["licence"]
            shown.add_row(name, one["family"], one["labels"], one["size"], licence)
    Console().print(shown)


def _show(options: argparse.Namespace) -> None:
    one = _find(options.name)
    for key, called in FACTS.items():
        print(_wrapped(f"{called + ':':<9} {one[key]}", 10))
    if one["non_commercial"]:
        print("          Not for commercial use.")
    if "extras" in one:
        print(f'needs:    pip install "umedpt-lightning[{",".join(one["extras"])}]"')
    for title, lines in (("traps", one["traps"]), ("sources", one["source"])):
        print(f"\n{title}")
        print(*(_wrapped(f"- {line}", 2) for line in lines), sep="\n")
    print(f"\nunpacked into ROOT/{options.name}\n{textwrap.indent(one['layout'], '  ')}\nreaders")
    print(textwrap.indent(yaml.dump(one["tasks"], Dumper=_WithoutAnchors, sort_keys=False, width=_WIDTH), "  "))


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"umedpt {command}", description="Public data sets: what they are, and configs that train on them."
    )
    kinds = parser.add_subparsers(required=True, metavar="list|show|config|table")
    listing = kinds.add_parser("list", help="all sets", description="Lists all sets.")
    listing.add_argument("--family", choices=_families(), help="those of one family")
    listing.set_defaults(run=_list)
    showing = kinds.add_parser("show", help="all that is known of a set", description="Prints what is known of a set.")
    showing.add_argument("name", metavar="NAME")
    showing.set_defaults(run=_show)
    making = kinds.add_parser(
        "config", help="one config of some sets", description="Prints one config that trains on all of these sets."
    )
    making.add_argument("names", metavar="NAME", nargs="+")
    making.set_defaults(run=lambda options: print(config(options.names, options.commercial), end=""))
    drawing = kinds.add_parser("table", help="all sets in Markdown", description="Prints the table of docs/zoo.md.")
    drawing.set_defaults(run=lambda options: print(table(), end=""))
    for kind in (listing, making):
        kind.add_argument("--commercial", action="store_true", help="without sets for non-commercial use only")
    return parser


def _families() -> list[str]:
    return sorted({one["family"] for one in sets().values()})


def _find(name: str) -> Set:
    if name not in sets():
        raise ValueError(f"there is no set {name!r}. {near(name, sets())}")
    return sets()[name]


class _WithoutAnchors(yaml.SafeDumper):
    """Writes what is used twice twice, which people can edit."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always."""
        return True
