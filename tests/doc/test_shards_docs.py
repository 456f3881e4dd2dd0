"""The commands of the page on data beyond one machine, one after the other, and what it says of the tar files."""

from __future__ import annotations

import re
import shlex
import tarfile
from pathlib import Path

import pytest
import yaml
from file_server import serve

from umedpt_lightning.cli import main
from umedpt_lightning.data.shards import store

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "shards.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.startswith("umedpt")
]


def test_shards_are_packed_served_and_trained_on(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    content = yaml.safe_load((project / "config.yaml").read_text())
    (tmp_path / "data").symlink_to(project)
    tasks = {"pneumonia": content["data"]["tasks"].pop("sizes") | {"size": 32}}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"data": {"tasks": tasks}}))
    del content["root"], content["data"]["tasks"]
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(content))
    pack, fit = COMMANDS
    main(pack[1:])
    written = yaml.safe_load((tmp_path / "shards" / "tasks.yaml").read_text())
    (block,) = (yaml.safe_load(one) for one in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
    theirs, mine = (one["data"]["tasks"]["pneumonia"] for one in (block, written))
    assert theirs["train"] == mine["train"]
    assert theirs.keys() <= mine.keys()
    with tarfile.open(tmp_path / "shards" / "pneumonia" / "train" / "00000.tar") as members:
        assert len(members.getnames()) == 12
    with serve(tmp_path / "shards") as served:
        words = [served.address if word.startswith("https://") else word for word in fit[1:]]
        main([*words, "--config", "train.yaml", "--trainer.max_epochs", "1", "--data.steps_per_epoch", "1"])
    assert (tmp_path / "runs" / "first" / "checkpoints" / "best.ckpt").is_file()


def test_the_page_says_how_long_a_server_is_waited_for() -> None:
    assert f"answer, four times in {sum(store._WAITS):g} s" in TEXT
    assert len(store._WAITS) == 3
