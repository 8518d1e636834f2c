"""Debian's Chromium, headless, in a namespace of the lab: it reaches that node, and nothing else.

By WebDriver and the DevTools protocol, as any test of a web page does it.
"""

from __future__ import annotations

import base64
import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from lab.netns import Namespace

CHROMIUM: Final = "/usr/bin/chromium"
CHROMEDRIVER: Final = "/usr/bin/chromedriver"

OPTIONS: Final = (
    "--headless=new",
    "--no-sandbox",  # it needs that as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
)


@contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """The calling thread in a namespace: what it starts and connects to is there."""
    setns = ctypes.CDLL(None, use_errno=True).setns  # os.setns: Python 3.12
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    away = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if setns(away, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        setns(home, 0)
        os.close(home)
        os.close(away)


@dataclass
class Browser:
    """One window. Its thread has to be `inside` the namespace."""

    driver: Chrome

    def open(self, url: str) -> None:
        self.driver.get(url)

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script's body, and what it returns."""
        return self.driver.execute_script(script, *arguments)

    def devtools(self, method: str, **parameters: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.driver.execute_cdp_cmd(method, parameters)
        return found

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """The size of the page, in CSS pixels."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def prefer(self, **media: str) -> None:
        """What its user prefers: `color_scheme="dark"`."""
        features = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in media.items()
        ]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def complaints(self) -> list[str]:
        """What it has written on its console since it was last asked: errors, and violations of
        the page's Content-Security-Policy.
        """
        lines = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # theirs
        return [str(line["message"]) for line in lines]

    def picture(self, path: Path) -> bytes:
        """A screenshot of the whole page, as PNG."""
        width, height = self.js("return [innerWidth, document.documentElement.scrollHeight]")
        clip: Mapping[str, int] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        made = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        data = base64.b64decode(made["data"])
        path.write_bytes(data)
        return data


@contextmanager
def browser(run: Path) -> Iterator[Browser]:
    """A browser that keeps its files in `run`."""
    home = run / "chromium"
    home.mkdir()
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={home / 'profile'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
    service = Service(CHROMEDRIVER, env=environment, log_output=str(run / "chromedriver.log"))
    driver = Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(120)
        driver.set_script_timeout(120)
        yield Browser(driver)
    finally:
        driver.quit()
