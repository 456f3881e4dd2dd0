"""The config in the page on transfer can be read, its defaults are the real ones, and its options exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from umedpt_lightning.cli.transfer import _parser

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "transfer.md").read_text()
BLOCK, EXTERNAL = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_the_config_of_the_page_is_understood() -> None:
    content = yaml.safe_load(BLOCK)
    config = _parser("transfer").parse_object(content).transfer
    assert set(config.methods) == {"random", "imagenet", "ours"}
    del content["transfer"]["fractions"], content["transfer"]["seeds"]
    default = _parser("transfer").parse_object(content).transfer
    assert (default.fractions, default.seeds) == (config.fractions, config.seeds)


def test_other_centres_are_given_as_the_page_says() -> None:
    content = yaml.safe_load(BLOCK)
    content["transfer"] |= yaml.safe_load(EXTERNAL)
    assert set(_parser("transfer").parse_object(content).transfer.external) == {"elsewhere"}


def test_the_options_that_the_page_names_exist() -> None:
    finetuning = _parser("transfer").parse_object(yaml.safe_load(BLOCK)).transfer.finetuning
    (sentence,) = re.findall(r"under `finetuning:` are ([^.]*)\.", " ".join(TEXT.split()))
    assert set(re.findall(r"`(\w+)`", sentence)) == set(vars(finetuning))
