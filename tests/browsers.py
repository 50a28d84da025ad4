"""A real browser for tests of pages: headless Chromium, driven by selenium."""

from __future__ import annotations

import base64
import io
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image


@contextmanager
def chromium(factory):
    """A driver of headless Chromium with a profile of its own; skips where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not program or not chromedriver:
        pytest.skip("chromium or chromedriver is not installed")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "hide-scrollbars", f"user-data-dir={factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


class Browser:
    """Headless Chromium with one page open."""

    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder

    def resize(self, size):
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
        )

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def text(self, selector):
        return self.js("return document.querySelector(arguments[0]).innerText", selector)

    def texts(self, selector):
        return self.js(
            "return [...document.querySelectorAll(arguments[0])].map(one => one.innerText)",
            selector,
        )

    def click(self, selector):
        self.js("document.querySelector(arguments[0]).click()", selector)

    def complaints(self):
        return [one for one in self.driver.get_log("browser") if one["level"] != "INFO"]

    def screenshot(self, path):
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True}
        )
        path.write_bytes(base64.b64decode(shot["data"]))
        return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
