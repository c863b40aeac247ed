"""Chromium without a screen, driven over the W3C WebDriver protocol: plain HTTP to chromedriver, no package.

Debian has both: apt-get install chromium chromium-driver. https://www.w3.org/TR/webdriver2/ lists the paths; those that
begin with goog/cdp pass a command of the DevTools protocol on.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Tab": "\ue004", "Right": "\ue014", "Left": "\ue012"}
WAIT_S = 20.0
_STARTED = "was started successfully on port"


def browser_missing() -> str | None:
    """What is not installed, as one line; None where a browser can be started."""
    if _chromium() and shutil.which(DRIVER):
        return None
    return "no Chromium with chromedriver; on Debian: apt-get install chromium chromium-driver"


class Browser:
    """One tab. Methods raise RuntimeError with what chromedriver said."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, page: Path | str) -> None:
        """Load a file or an address and wait until it is there."""
        self._post("url", {"url": page.absolute().as_uri() if isinstance(page, Path) else page})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page; what it returns, as JSON has it; a promise is waited for."""
        return self._post("execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str) -> Any:
        """Run the body of a function that calls its last argument when it is done; returns what it hands over."""
        return self._post("execute/async", {"script": script, "args": []})

    def wait(self, condition: str, *arguments: Any) -> None:
        """Until the JavaScript expression is true, for at most WAIT_S. Raises RuntimeError when it is not."""
        end_s = time.monotonic() + WAIT_S
        while not self.run(f"return Boolean({condition})", *arguments):
            if time.monotonic() > end_s:
                raise RuntimeError(f"waited {WAIT_S} s in vain for {condition}")
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """Click in the middle of the element, scrolled to at once even where the page scrolls smoothly."""
        self.run(
            "document.querySelector(arguments[0]).scrollIntoView({behavior: 'instant', block: 'center'})", selector
        )
        self._post(f"element/{self._element(selector)}/click", {})

    def type(self, text: str) -> None:
        """Press keys, wherever the focus is; names of KEYS are one key."""
        keys = [KEYS[text]] if text in KEYS else list(text)
        presses = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": presses}]})

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Give the page this size in CSS pixels; as a phone's, with touch and its rules for the viewport."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)

    def emulate(self, *, medium: str = "", dark: bool = False) -> None:
        """Show the page as on `medium` (print), and with a dark colour scheme if `dark` is true."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", media=medium, features=[scheme])

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self._get("screenshot"))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._post("print", {}))

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._post("goog/cdp/execute", {"cmd": command, "params": parameters})

    def console(self) -> list[str]:
        """What the page reported since the last call: errors, and what its policy refused."""
        return [entry["message"] for entry in self._post("se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call, the page's own among them."""
        events = [json.loads(entry["message"])["message"] for entry in self._post("se/log", {"type": "performance"})]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def _element(self, selector: str) -> str:
        found = self._post("element", {"using": "css selector", "value": selector})
        return str(next(iter(found.values())))

    def _get(self, path: str) -> Any:
        return _call(f"{self._session}/{path}")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return _call(f"{self._session}/{path}", body)


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium with a separate profile, closed in the end. Raises RuntimeError where there is none."""
    if reason := browser_missing():
        raise RuntimeError(reason)
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        try:
            address = f"http://127.0.0.1:{_port(driver)}/session"
            session = f"{address}/{_call(address, _capabilities())['sessionId']}"
            try:
                yield Browser(session)
            finally:
                _call(session, method="DELETE")
        finally:
            driver.terminate()


def _capabilities() -> dict[str, Any]:
    options = {
        "binary": _chromium(),
        # In a container Chromium runs as root, for which it has no sandbox, and /dev/shm is small.
        "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"],
    }
    logs = {"browser": "ALL", "performance": "ALL"}
    return {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logs}}}


def _chromium() -> str | None:
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


def _port(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        if _STARTED in line:
            return int(line.rpartition(_STARTED)[2].strip(" .\n"))
    raise RuntimeError(f"{DRIVER} did not start")


def _call(address: str, body: dict[str, Any] | None = None, *, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine; no proxy knows it
    try:
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        value = json.load(error)["value"]
        raise RuntimeError(f"{value['error']}: {value['message'].splitlines()[0]}") from None
