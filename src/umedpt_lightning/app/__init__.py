"""A page on this machine to try a model on images; nothing leaves it."""

from __future__ import annotations

import os

#: Read by gradio and the Hub's client when they are imported.
SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",  # it would keep images in the browser
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def go_offline() -> None:
    """Sets them; to be called before those libraries are imported."""
    os.environ |= SETTINGS
