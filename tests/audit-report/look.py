#!/usr/bin/env python3
"""Looks at a page of `xks-proxy audit report --format html` with headless Chromium, at desk and phone
width, in light and dark, and writes a PNG of each.

    tests/audit-report/look.py report.html [DIRECTORY]

Fails if the page logs anything to its console, asks for anything, is wider than the screen, has a
script or anything else that could run or load something, or is not printed as a whole. Prints the
page's text. Needs Chromium: apt-get install chromium.
"""

import base64
import os
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "status-page"))

from browse import Browser, report, views  # noqa: E402

#: Elements and attributes that load or run something, and ids that lead nowhere.
ACTIVE = """[
    ...document.querySelectorAll("script, iframe, object, embed, img, form, base, audio, video, portal"),
    ...[...document.querySelectorAll("*")].filter((one) => [...one.attributes].some((it) =>
        it.name.startsWith("on") || it.name === "style" || it.name === "src" ||
        (it.name.endsWith("href") && !/^(#|data:,$)/.test(it.value)))),
    ...[...document.querySelectorAll("a")].filter((one) => !document.querySelector(one.hash)),
].map((one) => one.outerHTML.slice(0, 200)).join("; ")"""
#: The parser moves text out of a table that is not well formed.
MISPLACED = """[...document.body.childNodes].filter((one) =>
    one.nodeType === Node.TEXT_NODE && one.data.trim()).map((one) => one.data).join("; ")"""
#: Rows whose number of cells is not that of the head.
UNEVEN = """[...document.querySelectorAll("table")].filter((table) => [...table.rows].some((row) =>
    row.cells.length !== table.rows[0].cells.length)).map((table) => table.outerHTML.slice(0, 200)).join("; ")"""


def look(path, directory):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            url = Path(path).resolve().as_uri()
            browser.open(url)
            browser.wait_for("document.readyState === 'complete'")
            for name, expression in [("active", ACTIVE), ("misplaced", MISPLACED), ("uneven", UNEVEN)]:
                found = browser.evaluate(expression)
                assert not found, f"{name}: {found}"
            views(browser, directory, "report")
            pdf = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"])
            assert pdf.startswith(b"%PDF") and len(pdf) > 10_000
            Path(directory, "report.pdf").write_bytes(pdf)
            text = browser.evaluate("document.body.innerText")
            complaints = browser.complaints(url)
            others = [event["params"]["request"]["url"] for event in browser.events
                      if event.get("method") == "Network.requestWillBeSent"]
        finally:
            browser.close()
    # Only the page itself.
    complaints = [one for one in complaints if one != f"a request to {url}"]
    complaints += [f"a request to {other}" for other in others if other not in (url, "data:,")]
    return report(complaints, text)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: look.py report.html [DIRECTORY]")
    sys.exit(look(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else os.curdir))
