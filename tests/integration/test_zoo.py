"""The zoo: every set's files are read as they are downloaded, and sets of all families train together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
import zoo_files
from jsonschema import Draft7Validator

from umedpt_lightning.cli import main
from umedpt_lightning.cli.zoo import FACTS, config, sets, table

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(sets())
#: A set of each family at least, and of each reader that the zoo brought; together they are trained.
FIVE = ["pannuke", "nct_crc_he", "siim_pneumothorax", "rsna_pneumonia", "acdc"]
MODEL = {
    "encoder": {"class_path": "Encoder", "init_args": {"name": "test_resnet", "batch_norm": "group"}},
    "pixel_decoder": {"class_path": "PixelDecoder", "init_args": {"channels": 8}},
    "detection_decoder": {"class_path": "DetectionDecoder", "init_args": {"channels": 32}},
}


def _written(folder: Path, names: list[str]) -> list[str]:
    """Files of sets, and the arguments for a config of them; images are small and so are batches."""
    for name in names:
        zoo_files.make[name](folder / "data" / name)
    content = yaml.safe_load(config(names))
    for task in content["data"]["tasks"].values():
        task |= {"size": 64, "batch_size": 2}
    content["data"] |= {"num_workers": 0, "steps_per_epoch": 3}
    content |= {"model": MODEL, "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return ["--config", str(folder / "config.yaml"), "--root", str(folder / "data")]


def test_every_set_has_its_facts_its_sources_and_a_fixture() -> None:
    assert zoo_files.make.keys() == sets().keys()
    assert len(NAMES) >= 17
    assert {one["family"] for one in sets().values()} == {"microscopic", "tomographic", "x-ray"}
    for name, one in sets().items():
        for key in FACTS:
            assert isinstance(one[key], str), (name, key)
        assert isinstance(one["non_commercial"], bool)
        assert one["source"], name
        places = ("github.com/", "huggingface.co/", "https://", "http://")
        assert all(source.startswith(places) for source in one["source"]), name
        for fact in ("licence", "citation"):
            assert any(fact in source.partition(" (")[2] for source in one["source"]), (name, fact)
        assert one["traps"], name
        assert list(one["tasks"]) == [name]
        if "NC" in one["licence"] or "non-commercial" in one["licence"]:
            assert one["non_commercial"], name
        paths = [value for value in yaml.safe_dump(one["tasks"]).split() if "${root}" in value]
        assert all(re.search(rf"\$\{{root\}}/{name}\b", path) for path in paths), name


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_a_set_are_read_as_they_are_downloaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _written(tmp_path, [name])
    main(["data", "check", *arguments, "--workers", "1"])  # ends with 1 where there is an error
    shown = capsys.readouterr().out
    assert name in shown
    for part in sets()[name]["tasks"][name].keys() & {"train", "val", "test"}:
        assert part in shown


def test_five_sets_of_three_families_are_one_config_that_trains(tmp_path: Path) -> None:
    arguments = _written(tmp_path, FIVE)
    main(["fit", *arguments, "--run", str(tmp_path / "run"), "--trainer.log_every_n_steps", "1"])
    metrics = (tmp_path / "run" / "metrics.csv").read_text()
    for name in FIVE:
        assert f"train/{name}/loss" in metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_set_trains(name: str, tmp_path: Path) -> None:
    main(["fit", *_written(tmp_path, [name]), "--run", str(tmp_path / "run")])


def test_a_config_says_licences_and_is_valid(schema: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["zoo", "config", *NAMES])
    text = capsys.readouterr().out
    for name, one in sets().items():
        assert f"# {name}: {one['licence']}. " in text
    whole = yaml.safe_load(text)
    assert list(whole["data"]["tasks"]) == NAMES
    assert [error.message for error in Draft7Validator(schema).iter_errors(whole)] == []


def test_sets_for_non_commercial_use_are_left_out_by_one_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["zoo", "list"])
    everything = capsys.readouterr().out
    main(["zoo", "list", "--commercial"])
    free = capsys.readouterr().out
    assert "pannuke" in everything
    assert "pannuke" not in free
    assert "msd_spleen" in free
    with pytest.raises(SystemExit, match="chexpert, pannuke: for non-commercial use only"):
        main(["zoo", "config", "chexpert", "msd_spleen", "pannuke", "--commercial"])
    main(["zoo", "list", "--family", "x-ray"])
    assert "msd_spleen" not in capsys.readouterr().out


def test_a_set_is_shown_with_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    for name, one in sets().items():
        main(["zoo", "show", name])
        shown = " ".join(capsys.readouterr().out.split())
        for text in (*(one[key] for key in FACTS), *one["traps"], *one["source"]):
            assert " ".join(text.split()) in shown, (name, text)
    with pytest.raises(SystemExit, match=r"there is no set 'panuke'. Did you mean pannuke"):
        main(["zoo", "show", "panuke"])


def test_the_page_has_the_table_that_the_command_prints() -> None:
    assert table() in (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
