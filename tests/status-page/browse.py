"""Drives headless Chromium over its DevTools protocol (--remote-debugging-pipe), with nothing but
the standard library. See screenshot.sh."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from urllib.parse import urlsplit

# name, width, height, device scale, phone, dark
VIEWS = [
    ("desk", 1280, 900, 1, False, False),
    ("desk-dark", 1280, 900, 1, False, True),
    ("phone", 390, 844, 2, True, False),
    ("phone-dark", 390, 844, 2, True, True),
]
TIMEOUT_SECS = 60
TOO_WIDE = """[...document.querySelectorAll("body *")]
    .filter((one) => one.getBoundingClientRect().right > innerWidth)
    .map((one) => `${one.tagName} ${one.id} ${one.textContent.slice(0, 30)}`).join("; ")"""


class Browser:
    """One Chromium with one page."""

    def __init__(self, directory):
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()

        def place_pipes():
            # Chromium reads commands from descriptor 3 and writes to 4.
            commands, answers = os.dup(to_browser), os.dup(from_browser)
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        self.process = subprocess.Popen(
            [
                program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
                "--disable-quic", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
                "--hide-scrollbars", f"--user-data-dir={directory}", "about:blank",
            ],
            preexec_fn=place_pipes, close_fds=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.serial = 0
        self.received = b""
        self.events = []
        self.session = None

    def message(self, until):
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.read_end], [], [], max(0, until - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium does not answer")
            chunk = os.read(self.read_end, 1 << 20)
            if not chunk:
                raise EOFError(f"Chromium ended with {self.process.wait()}")
            self.received += chunk
        message, self.received = self.received.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.serial += 1
        command = {"id": self.serial, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.write_end, json.dumps(command).encode() + b"\0")
        until = time.monotonic() + TIMEOUT_SECS
        while True:
            message = self.message(until)
            if message.get("id") == self.serial:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def open(self, url):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, expression):
        until = time.monotonic() + TIMEOUT_SECS
        while not self.evaluate(expression):
            if time.monotonic() > until:
                raise TimeoutError(f"{expression} is still not so; the page: {self.evaluate('document.body.innerText')}")
            time.sleep(0.1)

    def screenshot(self, path):
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(image["data"]))

    def complaints(self, origin):
        """What the console shows, and each request that leaves the page's own origin."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.consoleAPICalled":
                found.append(f"console: {params['args']}")
            elif event.get("method") == "Runtime.exceptionThrown":
                found.append(f"exception: {params['exceptionDetails']}")
            elif event.get("method") == "Log.entryAdded":
                found.append(f"log: {params['entry']['level']}: {params['entry']['text']}")
            elif event.get("method") == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith((origin + "/", "data:")):
                    found.append(f"a request to {url}")
        return found

    def close(self):
        self.process.kill()
        self.process.wait()


def views(browser, directory, prefix):
    """Writes a PNG of the whole page for each view; none may be wider than its screen."""
    os.makedirs(directory, exist_ok=True)
    for name, width, height, scale, is_phone, is_dark in VIEWS:
        scheme = "dark" if is_dark else "light"
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        metrics = {"width": width, "deviceScaleFactor": scale, "mobile": is_phone}
        browser.call("Emulation.setDeviceMetricsOverride", height=height, **metrics)
        browser.evaluate("window.dispatchEvent(new Event('resize'))")
        wide = browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name}: the page is {wide} wide, the screen {width}: {browser.evaluate(TOO_WIDE)}"
        whole = browser.evaluate("document.documentElement.scrollHeight")
        browser.call("Emulation.setDeviceMetricsOverride", height=whole, **metrics)
        browser.screenshot(os.path.join(directory, f"{prefix}-{name}.png"))


def report(complaints, text):
    """Prints the page's text, and complaints as errors. Returns the exit code."""
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    print(text)
    return 1 if complaints else 0


def look(url, directory):
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            browser.open(url)
            # A load would forget this.
            browser.wait_for("typeof last !== 'undefined' && last !== null")
            browser.evaluate("window.sameDocument = true")
            first = browser.evaluate("last.uptimeMillis")
            for _ in range(2):
                browser.wait_for(f"last.uptimeMillis > {first}")
                first = browser.evaluate("last.uptimeMillis")
            assert browser.evaluate("window.sameDocument") is True, "the page was reloaded"
            assert browser.evaluate("document.getElementById('fresh').textContent") == "live"
            views(browser, directory, "status")
            text = browser.evaluate("document.body.innerText")
            complaints = browser.complaints(origin)
        finally:
            browser.close()
    return report(complaints, text)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: screenshot.sh URL [DIRECTORY]")
    sys.exit(look(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "."))
