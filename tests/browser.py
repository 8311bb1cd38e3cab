"""A headless Chromium that tests drive by the WebDriver protocol, without a library of its own."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
CHROMEDRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="no chromium or no chromedriver on this machine"
)

TAB, ENTER, DOWN, SPACE = "\ue004", "\ue007", "\ue015", " "


class Browser:
    """A headless Chromium, spoken to by the WebDriver protocol."""

    def __init__(self, address):
        self.address = address
        # A proxy of the environment must not come between.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method, path, **body):
        request = urllib.request.Request(
            f"{self.address}{path}",
            data=json.dumps(body).encode() if method == "POST" else None,
            headers={"Content-Type": "application/json"},
            method=method,
        )
        with self.opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, address):
        """A page, by its address or as a file."""
        url = address.as_uri() if isinstance(address, Path) else address
        self.call("POST", "/url", url=url)

    def run(self, script, *arguments):
        """What a script returns."""
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def devtools(self, command, **parameters):
        self.call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def resize(self, width, height=800):
        self.devtools(
            *("Emulation.setDeviceMetricsOverride",),
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, **features):
        named = [{"name": n.replace("_", "-"), "value": value} for n, value in features.items()]
        self.devtools("Emulation.setEmulatedMedia", features=named)

    def press(self, *keys):
        """Keys as a hand would press them, wherever the focus is."""
        strokes = [{"type": kind, "value": k} for k in keys for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keyboard", "actions": strokes}]
        self.call("POST", "/actions", actions=actions)

    def click(self, selector, using="css selector"):
        found = self.call("POST", "/element", using=using, value=selector)
        (element,) = found.values()
        self.call("POST", f"/element/{element}/click")

    def until(self, script, *arguments, seconds=30):
        """What a script returns as soon as that is something; the page is given time."""
        end = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            if time.monotonic() > end:
                said = self.run("return document.body.innerText")
                raise AssertionError(f"not within {seconds} s: {script}\nThe page: {said[:2000]}")
            time.sleep(0.1)
        return found

    def screenshot(self, path):
        """What is to be seen now, as a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def choose(self, selector, value):
        """Another option of a select, as its own events tell it."""
        self.run(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('change', {bubbles: true}))",
            *(selector, value),
        )

    def complaints(self):
        """What stands in the console since the last look."""
        return [entry["message"] for entry in self.call("POST", "/se/log", type="browser")]


@contextmanager
def started(folder):
    command = [CHROMEDRIVER, "--port=0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        lines = iter(process.stdout.readline, "")
        port = next(m[1] for m in (re.search(r"successfully on port (\d+)", x) for x in lines) if m)
        browser = Browser(f"http://127.0.0.1:{port}")
        arguments = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--disable-dev-shm-usage", f"--user-data-dir={folder}"),
        ]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = browser.call("POST", "/session", capabilities={"alwaysMatch": wanted})
        browser.address += f"/session/{session['sessionId']}"
        try:
            yield browser
        finally:
            browser.call("DELETE", "")
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
