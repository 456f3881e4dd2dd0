"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the tests share two cores; two threads waiting for each other take ten times as long
# In its first backward pass torch decides for good whether it may be forked afterwards: not where it knows of devices
# other than the CPU, and the exporters to ONNX have it know of some. The tests fork ranks.
torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UMEDPT_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set UMEDPT_SHARED_DATA")
    return folder


pytest_plugins = ["leaks", "project"]
