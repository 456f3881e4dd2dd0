"""What bash completes with the script of `umedpt completion`."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from umedpt_lightning.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "umedpt.bash"
    with pytest.MonkeyPatch.context() as patched, file.open("w") as stream:
        patched.setattr(sys, "stdout", stream)
        main(["completion", "bash"])
    return file


def complete(script: Path, *words: str) -> list[str]:
    """What is offered for the last word, by the function that bash calls when the key is pressed."""
    ask = 'COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; '
    ask = f'source {script}; {ask} _shtab_umedpt; printf "%s\\n" "${{COMPREPLY[@]}}"'
    command = ["bash", "--norc", "--noprofile", "-c", ask, "bash", "umedpt", *words]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stderr == ""
    return found.stdout.split()


def test_commands(script: Path) -> None:
    assert set(complete(script, "")) == set(COMMANDS)
    assert complete(script, "lr") == ["lr-find"]
    assert complete(script, "data", "") == ["check", "preview", "pack"]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "data"])
def test_every_command_has_its_options(command: str, script: Path) -> None:
    assert "--help" in complete(script, command, "--")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("fit", "--trainer.max_ep"), ["--trainer.max_epochs"]),
        (("fit", "--trainer.max_epochs", "3", "--data.distr"), ["--data.distribute"]),
        (("fit", "--data.distribute", ""), ["samples", "tasks"]),
        (("fit", "--best_per_task", ""), ["true", "false"]),
        (("fit", "--config", "configs/demo."), ["configs/demo.yaml"]),
        (("data", "check", "--config", "configs/demo."), ["configs/demo.yaml"]),
        (("data", "check", "--js"), ["--json"]),
        (("export", "--o"), ["--out", "--onnx"]),
        (("transfer", "--transfer.se"), ["--transfer.seeds"]),
        (("completion", ""), ["bash", "zsh"]),
    ],
)
def test_options_and_values(words: tuple[str, ...], offered: list[str], script: Path) -> None:
    assert complete(script, *words) == offered


def test_the_key_completes_on_a_terminal(script: Path) -> None:
    terminal, end = pty.openpty()
    environment = {**os.environ, "PS1": "$ ", "TERM": "dumb"}
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=end, stdout=end, stderr=end, env=environment, cwd=ROOT
    )
    try:
        os.write(terminal, f"umedpt() {{ echo called:$*; }}; source {script}\n".encode())
        os.write(terminal, b"umedpt prof\t--data.num_w\t2\n")
        shown = b""
        while b"called:profile --data.num_workers 2" not in shown and select.select([terminal], [], [], 20)[0]:
            shown += os.read(terminal, 4096)
    finally:
        bash.kill()
        bash.wait()
        os.close(terminal)
        os.close(end)
    assert b"called:profile --data.num_workers 2" in shown


def test_zsh_gets_a_script_too(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "zsh"])
    text = capsys.readouterr().out
    assert text.startswith("#compdef umedpt")
    assert all(re.search(rf"^ +{name}:'", text, re.MULTILINE) for name in COMMANDS)
