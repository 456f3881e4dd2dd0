"""The page of `umedpt demo-app` in a subprocess, and a browser without a screen that looks at it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1200",
]
#: No name is known but this machine's: what the page needs, it must have from there.
_NO_INTERNET = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """The address of ``umedpt demo-app`` with these arguments at a free port; `folder` becomes its temporary one."""
    command = [sys.executable, "-m", "umedpt_lightning", "demo-app", *arguments, "--port", "0"]
    environment = os.environ | {"TMPDIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"page: +(http://\S+)", line) for line in process.stdout)), None)
        assert found is not None, "the page did not start"
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


class Browser:
    """Chromium without a screen.

    Args:
        profile: A new folder for what it keeps.
    """

    def __init__(self, profile: Path) -> None:
        webdriver = pytest.importorskip("selenium.webdriver")
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            lacking = "no Chromium: apt-get install chromium chromium-driver"
            if os.environ.get("UMEDPT_NEEDS_BROWSER"):  # CI installs it: a skipped test would hide that it did not
                pytest.fail(lacking)
            pytest.skip(lacking)
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*_FLAGS, _NO_INTERNET, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()

    def all(self, selector: str) -> list[Any]:
        """The elements of a CSS selector that are there."""
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def wait(self, selector: str) -> Any:
        """The first element of a CSS selector, once it is there."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 90).until(lambda _: self.all(selector))[0]

    def drop(self, file: Path) -> None:
        """Gives a file to the page, and waits until it has looked at it."""
        for old in self.all("#u-file button[aria-label='Clear'], #u-file button[aria-label='Remove this file']")[:1]:
            old.click()
        self.wait("#u-file input[type=file]").send_keys(str(file))
        self.wait("#u-preview svg, #u-preview .u-problem")

    def requests(self) -> list[str]:
        """Addresses that pages of the web were asked for since the last call; the browser's own pages left out."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if url.startswith(("http", "ws"))]
