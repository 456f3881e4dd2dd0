"""The page is served to this machine alone, and asks nothing of any other."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import small_encoder, spec_of

from umedpt_lightning.app import SETTINGS, go_offline
from umedpt_lightning.app.service import AppService
from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel


def _model() -> MultiTaskModel:
    return MultiTaskModel(small_encoder(), {"kinds": spec_of("class")})


@pytest.fixture(scope="module")
def client() -> Any:
    pytest.importorskip("gradio")
    from fastapi.testclient import TestClient

    from umedpt_lightning.app.server import application

    return TestClient(application(AppService(_model()), "first <model>", "127.0.0.1"), base_url="http://127.0.0.1:7860")


def test_the_page_names_no_other_machine_to_load_from(client: Any) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    html = re.sub(r"<meta[^>]*>", "", answer.text)  # what a shared link would look like; browsers load nothing for it
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//[^"' ]+""", html)
    config = json.loads(re.search(r"window\.gradio_config = (.*?);</script>", html, re.DOTALL)[1])  # type: ignore[index]
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert config["stylesheets"] == []
    assert not config.get("footer_links")
    styles = client.get("/theme.css").text
    assert styles
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", styles), "names of formats are no addresses"


def test_browsers_are_told_to_load_and_send_nothing_elsewhere(client: Any) -> None:
    policy = client.get("/").headers["content-security-policy"]
    parts = {part.split()[0]: part.split()[1:] for part in policy.split(";")}
    assert parts["default-src"] == ["'self'"]
    assert not [source for sources in parts.values() for source in sources if "http" in source or source == "*"]


def test_a_foreign_name_for_this_machine_is_refused(client: Any) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:7860"}).status_code == 200


def test_no_function_is_offered_to_programs_and_no_file_is_given_out(client: Any, tmp_path: Path) -> None:
    info = client.get("/gradio_api/info").json()
    assert not info["named_endpoints"]
    (tmp_path / "secret").write_text("secret")
    assert client.get(f"/gradio_api/file={tmp_path / 'secret'}").status_code in (403, 404)


def test_the_model_s_name_is_no_tag(client: Any) -> None:
    config = json.dumps(client.get("/config").json()["components"])
    assert "<h1>first &lt;model&gt;</h1>" in config


def test_settings_turn_off_what_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(name, "on")
    go_offline()
    assert (os.environ["GRADIO_ANALYTICS_ENABLED"], os.environ["HF_HUB_OFFLINE"]) == ("False", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _model().save_pretrained(tmp_path / "first")
    return tmp_path / "first"


def test_bad_options_are_told_before_anything_is_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)  # to be set back
    (folder / "bad.parquet").write_text("nothing")
    for arguments, message in {
        ("--model", "someone/model"): "--model someone/model: there is no such folder or file",
        ("--model", str(folder / "config.json")): "cannot be read as a checkpoint",
        ("--model", str(folder), "--images", str(folder)): "give these as well",
        ("--model", str(folder), "--neighbours", str(folder / "none.parquet")): r"There is no file .*none\.parquet",
        ("--model", str(folder), "--neighbours", str(folder / "bad.parquet")): "is no table of embeddings",
        ("--model", str(folder), "--neighbours", "x", "--images", "nowhere"): "--images nowhere is no folder",
    }.items():
        with pytest.raises(SystemExit, match=message):
            main(["demo-app", *arguments])


def test_a_port_that_is_taken_is_told_when_the_model_of_a_folder_or_checkpoint_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    model, checkpoint = _model(), folder / "best.ckpt"
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "model_config": model.model_config()}, checkpoint)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for place in (folder, checkpoint):
            with pytest.raises(SystemExit, match=f"cannot be served at 127.0.0.1, port {port}"):
                main(["demo-app", "--model", str(place), "--port", str(port)])
