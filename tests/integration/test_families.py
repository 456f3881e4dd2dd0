"""Every family of timm: its smallest model gives maps of images of any size, or says what to do; the docs' table."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import list_modules

from umedpt_lightning.blocks import BaseEncoder, Encoder, ViTEncoder
from umedpt_lightning.blocks.timm_encoder import is_plain_vit

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
SIZES = [(32, 32), (96, 96), (224, 224), (250, 190)]
#: In the fast tests: convolutions, windows, attention over all of an image, and models of one size alone.
SOME = ["convnext", "deit", "maxxvit", "mobilevit", "nest", "pvt_v2", "resnet", "vision_transformer_relpos"]


def smallest(family: str) -> str:
    """The model of a family with the fewest parameters."""
    counts = {}
    for name in timm.list_models(module=family):
        with torch.device("meta"):
            counts[name] = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    return min(counts, key=counts.__getitem__)


def rows() -> dict[str, list[str]]:
    """The page's rows by family: model, class, strides, and what becomes of the sizes."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if re.match(r"\| `\w+` \|", line)]
    return {family.strip("`"): [cell.strip("`") for cell in cells] for family, *cells in lines}


def made(name: str) -> BaseEncoder:
    torch.manual_seed(0)
    return (ViTEncoder if is_plain_vit(name) else Encoder)(name).eval()


def tried(name: str) -> list[str]:
    """The row of a model, without its family."""
    try:
        encoder = made(name)
    except ValueError as error:
        return [name, "none", "none", "no feature maps" if "cannot be used as an encoder" in str(error) else str(error)]
    works, told = [], set()
    for size in SIZES:
        try:
            encoder.check_size(size)
        except ValueError as error:
            found = re.search(
                rf"timm's {name} does not take .*(?:Give the task `size: (\[.*?\])`|Take another)", str(error)
            )
            told.add(found[1] if found else pytest.fail(str(error)))
        else:
            works.append(size)
            with torch.no_grad():
                pyramid = encoder(torch.rand(1, 3, *size))
            assert [tuple(m.shape) for m in pyramid.maps] == [
                (1, channels, pyramid.padded_size[0] // stride, pyramid.padded_size[1] // stride)
                for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
            ]
    assert not told or len(told) == 1
    for size in filter(None, told):  # the mend that is told does mend
        height, width = map(int, size.strip("[]").split(","))
        encoder.check_size((height, width))
    works += [tuple(map(int, size.strip("[]").split(","))) for size in told if size]
    sizes = ", ".join(f"{height} by {width}" for height, width in dict.fromkeys(works)) or "none" if told else "any"
    return [name, type(encoder).__name__, ", ".join(map(str, encoder.strides)), sizes]


@pytest.mark.parametrize("family", SOME)
def test_a_family_is_as_the_page_says(family: str) -> None:
    row = rows()[family]
    assert tried(row[0]) == row


@pytest.mark.slow
def test_every_family_is_as_the_page_says() -> None:
    write = bool(os.environ.get("UMEDPT_WRITE_PAGES"))
    known = {} if write else rows()
    found = {}
    for family in list_modules():
        found[family] = tried(known[family][0] if family in known else smallest(family))
    if write:
        table = [f"| `{family}` | `{row[0]}` | {' | '.join(row[1:])} |" for family, row in found.items()]
        before, _, rest = PAGE.read_text().partition("| --- | --- | --- | --- | --- |\n")
        after = rest[rest.index("<!-- end of the table -->") :]
        PAGE.write_text(f"{before}| --- | --- | --- | --- | --- |\n" + "\n".join([*table, "", after]))
    assert found == rows()
