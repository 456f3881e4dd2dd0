"""Every command of the page on the demo page serves it, with the options that it names."""

import re
import shlex
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import serving
from builders import small_encoder, spec_of

from umedpt_lightning.app import uploads
from umedpt_lightning.app.service import NEAREST
from umedpt_lightning.model import MultiTaskModel

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "demo-app.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^umedpt demo-app (.*)$", TEXT, re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the page's commands name."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    torch.manual_seed(0)
    model = MultiTaskModel(small_encoder(), {"other": spec_of("class"), "sizes": spec_of("class")})
    model.save_pretrained(tmp_path / "models" / "first")
    width = model.encoder.channels[-1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(8 * width, np.float32)), width)
    pq.write_table(
        pa.table({"id": [*"abcdefgh"], "group": [""] * 8, "vector": vectors}), tmp_path / "embeddings.parquet"
    )
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_serve_the_page(place: Path, command: str) -> None:
    pytest.importorskip("gradio")
    with serving(place / "tmp", *shlex.split(command)) as url:
        assert url.startswith("http://127.0.0.1:")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert b"first" in opener.open(url, timeout=60).read()
    assert not any((place / "tmp").iterdir())


def test_limits_are_those_of_the_code() -> None:
    assert len(COMMANDS) == 2
    assert f"Images of {uploads.LEAST_SIDE} x {uploads.LEAST_SIDE} to {uploads.MOST_PIXELS / 1e6:.0f} million" in TEXT
    assert f"take up to {uploads.MOST_AT_ONCE / 1e6:.0f} million" in TEXT
    assert NEAREST == 6
    assert "the six samples" in TEXT
