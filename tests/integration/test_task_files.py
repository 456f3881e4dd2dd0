"""A task a file: what several configs, files and folders say of tasks adds up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from umedpt_lightning.cli import main

QUICK = ["--trainer.max_epochs", "1", "--data.steps_per_epoch", "1"]


@pytest.fixture
def tasks(project: Path, tmp_path: Path) -> Path:
    """The project's config in pieces: ``tasks/NAME.yaml`` one task each, ``base.yaml`` all the rest."""
    config = yaml.safe_load((project / "config.yaml").read_text())
    (tmp_path / "tasks").mkdir()
    for name, task in config["data"].pop("tasks").items():
        text = yaml.safe_dump({"data": {"tasks": {name: task}}}).replace(str(project), "${root}")
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def _write(file: Path, content: dict[str, Any]) -> str:
    file.write_text(yaml.safe_dump(content))
    return str(file)


def _printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *arguments, "--print_config"])
    printed: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return printed


def _named(folder: Path, *entries: Any) -> str:
    return _write(folder / "named.yaml", {"data": {"tasks": list(entries)}})


def test_configs_add_up_and_the_last_word_on_an_option_counts(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = {"sizes": {"class_path": "Classification", "init_args": {"label_smoothing": 0.1}}}
    first = _write(tasks / "first.yaml", {"model": {"tasks": heads, "weights": {"sizes": 2.0}}})
    heads = {"places": {"class_path": "MultilabelClassification"}}
    last = _write(
        tasks / "last.yaml",
        {"data": {"tasks": {"sizes": {"batch_size": 3}}}, "model": {"tasks": heads, "weights": {"places": 0.5}}},
    )
    files = [tasks / "base.yaml", tasks / "tasks" / "sizes.yaml", first, tasks / "tasks" / "places.yaml", last]
    config = _printed(
        capsys, *(word for file in files for word in ("--config", str(file))), "--data.tasks.places.size=7"
    )
    assert list(config["data"]["tasks"]) == ["sizes", "places"]
    assert config["data"]["tasks"]["sizes"]["batch_size"] == 3
    assert config["data"]["tasks"]["sizes"]["train"]["class_path"].endswith("ManifestClasses")
    assert config["data"]["tasks"]["places"]["size"] == 7
    assert config["model"]["weights"] == {"sizes": 2.0, "places": 0.5}
    assert config["model"]["tasks"]["sizes"]["init_args"]["label_smoothing"] == 0.1
    assert config["model"]["tasks"].keys() == {"sizes", "places"}


@pytest.mark.parametrize("entry", ["tasks", "tasks/*.yaml", "tasks/**/*.yaml", "${root}/../tasks/"])
def test_files_and_folders_are_looked_for_beside_the_config_or_at_the_root(
    entry: str, tasks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tasks / "elsewhere").mkdir()
    (tasks / "tasks" / "._sizes.yaml").write_bytes(b"\0\5\x16\7")  # left by macOS
    monkeypatch.chdir(tasks / "elsewhere")
    named = _named(tasks, entry, {"sizes": {"size": 16}})
    config = _printed(capsys, "--config", str(tasks / "base.yaml"), f"--config={named}", "--root", ".")
    assert config["data"]["tasks"].keys() == {"sizes", "places", "position", "squares", "boxes"}
    assert config["data"]["tasks"]["sizes"]["size"] == 16


def test_a_run_of_named_files_trains_and_its_saved_config_is_whole_by_itself(tasks: Path, project: Path) -> None:
    heads = {"sizes": {"class_path": "Classification", "init_args": {"label_smoothing": 0.1}}}
    file = tasks / "tasks" / "sizes.yaml"
    own = yaml.safe_load(file.read_text()) | {"root": str(project), "model": {"tasks": heads}}
    file.write_text(yaml.safe_dump(own))
    named, run = _named(tasks, "tasks/sizes.yaml", "tasks/squares.yaml", "tasks/position.yaml"), tasks / "run"
    configs = ["--config", str(tasks / "base.yaml"), "--config", named]
    # the root that a file says is its own, beside another one's
    (tasks / "tasks" / "squares.yaml").write_text(
        (tasks / "tasks" / "squares.yaml").read_text().replace("${root}", str(project))
    )
    main(["fit", *configs, "--run", str(run), "--leave_out", "position", *QUICK])
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["tasks"].keys() == {"sizes", "squares"}
    assert saved["model"]["tasks"].keys() == {"sizes"}
    assert str(project) in str(saved["data"]["tasks"]["sizes"]["train"])
    assert "${root}" not in str(saved)
    for path in (tasks / "tasks").iterdir():
        path.unlink()
    main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", "last"])


def _told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command says that refuses its arguments."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return f"{end.value} {capsys.readouterr().err}"


def test_a_task_that_is_given_twice_names_both_files(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tasks / "other.yaml"
    other.write_text((tasks / "tasks" / "sizes.yaml").read_text())
    twice = [
        ["--config", str(tasks / "tasks" / "sizes.yaml"), "--config", str(other)],
        ["--config", _named(tasks, "tasks", "other.yaml")],
    ]
    for arguments in twice:
        for command in (["fit"], ["data", "check"]):
            told = _told(capsys, *command, *arguments)
            assert re.search(r"sizes is given twice: in .*sizes\.yaml and in .*other\.yaml", told)
    # one file that two entries name is one
    config = _printed(capsys, "--config", _named(tasks, "tasks/sizes.yaml", "tasks/s*.yaml"))
    assert list(config["data"]["tasks"]) == ["sizes", "squares"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("taks", r"taks: there is no such file, but .*named\.yaml names it"),
        ("tasks/z*.yaml", r"z\*\.yaml: there is no YAML file here, but .*named\.yaml names it"),
        (7, r"named\.yaml: data\.tasks must hold a mapping.*but it has 7"),
        ("base.yaml", r"base\.yaml: no task is described"),
        ("whole.yaml", r"whole\.yaml: a file that data\.tasks names .* also says data\.num_workers, trainer\. Take"),
    ],
)
def test_what_cannot_be_named_is_told(
    entry: Any, message: str, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = yaml.safe_load((tasks / "tasks" / "sizes.yaml").read_text())
    whole["data"]["num_workers"] = 0
    _write(tasks / "whole.yaml", whole | {"trainer": {"max_epochs": 2}})
    for command in (["fit"], ["data", "check"]):
        assert re.search(message, _told(capsys, *command, "--config", _named(tasks, entry)))


def test_names_that_are_not_there_are_refused_with_near_ones(tasks: Path, project: Path) -> None:
    configs = ["--config", str(tasks / "base.yaml"), "--config", _named(tasks, "tasks"), "--root", str(project)]
    with pytest.raises(SystemExit, match=r"--leave_out: there is no task 'size'. Did you mean sizes"):
        main(["fit", *configs, "--leave_out", "boxes,size", "--run", str(tasks / "run")])
    with pytest.raises(SystemExit, match="--leave_out leaves no task"):
        main(["fit", *configs, "--leave_out", "boxes,sizes,places,position,squares", "--run", str(tasks / "run")])
    with pytest.raises(SystemExit, match=r"--tasks: there is no task 'xyz'. There are "):
        main(["data", "check", *configs, "--tasks", "sizes,xyz"])
    assert not (tasks / "run").exists()


def test_the_check_leaves_out_what_the_training_leaves_out(
    tasks: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = Path(_named(tasks, "tasks"))
    _write(named, yaml.safe_load(named.read_text()) | {"leave_out": ["boxes", "places", "position"]})
    configs = ["data", "check", "--config", str(named), "--root", str(project)]
    main([*configs, "--json", str(tasks / "check.json")])
    assert json.loads((tasks / "check.json").read_text())["tasks"].keys() == {"sizes", "squares"}
    main([*configs, "--json", str(tasks / "check.json"), "--tasks", "boxes"])
    assert json.loads((tasks / "check.json").read_text())["tasks"].keys() == {"boxes"}
    more = tasks / "more.yaml"  # the last one counts, as for all options
    _write(more, {"leave_out": "boxes"})
    main([*configs, "--config", str(more), "--json", str(tasks / "check.json")])
    assert len(json.loads((tasks / "check.json").read_text())["tasks"]) == 4
    _write(more, {"leave_out": "boxs"})
    with pytest.raises(SystemExit, match=r"leave_out: there is no task 'boxs'. Did you mean boxes"):
        main([*configs, "--config", str(more)])


def test_the_check_looks_at_the_tasks_that_are_asked_for(
    tasks: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["data", "check", "--config", _named(tasks, "tasks"), "--root", str(project), "--tasks", "sizes, boxes"])
    shown = capsys.readouterr().out
    for name, expected in (("sizes:", True), ("boxes:", True), ("squares:", False)):
        assert (name in shown) == expected


def test_the_tasks_of_real_data_work_as_such_files(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = _named(tmp_path, "${root}/tasks")
    config = _printed(capsys, "--config", named, "--root", str(shared_data))
    assert len(config["data"]["tasks"]) == len(list((shared_data / "tasks").glob("*.yaml")))
    main(["data", "check", "--config", named, "--root", str(shared_data), "--tasks", "body_part", "--workers", "1"])


def test_the_config_of_the_page_adds_up(
    tasks: Path, project: Path, schema: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text.replace("pneumonia", "sizes"), re.DOTALL | re.MULTILINE)
    (tasks / "page.yaml").write_text(block)
    (tasks / "data" / "more_tasks").mkdir(parents=True)
    (tasks / "tasks" / "boxes.yaml").rename(tasks / "data" / "more_tasks" / "boxes.yaml")
    config = _printed(capsys, "--config", str(tasks / "page.yaml"), "--root", str(tasks / "data"))
    assert list(config["data"]["tasks"]) == ["places", "position", "sizes", "squares", "boxes"]
    assert config["data"]["tasks"]["sizes"]["size"] == 128
    valid = Draft7Validator(schema)
    assert [error.message for error in valid.iter_errors(yaml.safe_load(block))] == []
    assert list(valid.iter_errors({"data": {"tasks": [7]}}))
