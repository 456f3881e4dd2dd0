"""Every centre left out in turn: how much is lost where nothing was seen of it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from umedpt_lightning.data.readers.subset import Centres, centres_of
from umedpt_lightning.io.atomic import write_csv
from umedpt_lightning.transfer.cells import in_words
from umedpt_lightning.transfer.evaluation import Interval
from umedpt_lightning.transfer.protocol import PARTS, Protocol
from umedpt_lightning.transfer.summary import Row


def leave_one_out(protocol: Protocol, centre: str) -> Iterator[tuple[str, Protocol]]:
    r"""The protocol once a centre of the test part: without the centre in any part, and measured on it besides.

    Args:
        protocol: With all centres.
        centre: A regular expression with one group in parentheses that finds the centre in the group of a sample, or in
            its name where the reader knows no groups. ``(.+)`` where the groups are the centres.

    Raises:
        ValueError: Nothing tells the centres, the test part has one only, or a part has no sample of another centre.
    """
    found = {part: set(centres_of(protocol.part(part), centre).tolist()) for part in PARTS}
    names = sorted(found["test"])
    if len(names) < 2:
        raise ValueError(f"centres: the test part has samples of {names[0]} only, so that none can be left out.")
    for name in names:
        if "/" in name or name.startswith(".") or name in PARTS:
            raise ValueError(f"centres: {name!r} cannot name a centre, since its folder is called so. Rename it.")
        others: dict[str, Any] = {
            part: Centres(protocol.part(part), without=[name], centre=centre) for part in PARTS if name in found[part]
        }
        held = {name: Centres(protocol.part("test"), only=[name], centre=centre)}
        yield name, replace(protocol, data=replace(protocol.data, **others), external=protocol.external | held)


def left_out_table(rows: Mapping[str, Sequence[Row]]) -> list[tuple[str, Row, Interval, Interval]]:
    """Each row of each centre that was left out: the main metric there, and how far it lies above the test part's."""
    return [(centre, row, *row.external[centre]) for centre, found in rows.items() for row in found]


def write_centres(rows: Mapping[str, Sequence[Row]], main: str, folder: Path) -> None:
    """Writes ``centres.csv``: the main metric on the other centres' test part, at the centre left out, and the gap."""
    numbers = [f"{name}{end}" for name in (main, f"{main} at centre", "gap") for end in ("", "_low", "_high")]
    lines = []
    for centre, row, there, gap in left_out_table(rows):
        values = [v for one in (row.metrics[main], there, gap) for v in (one.mean, one.low, one.high)]
        share = in_words(row.share) if row.shots else row.fraction
        lines.append([centre, row.method, row.mode, share, *(f"{v:.6g}" if v == v else "" for v in values)])
    write_csv(folder / "centres.csv", ["centre", "method", "mode", "fraction", *numbers], lines)
