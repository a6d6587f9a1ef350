"""A headless Chromium for the tests of what a user looks at in one; a page of it reaches this machine alone."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

PATIENCE = 60_000  # milliseconds for anything to appear, on a machine that is busy with other tests


@contextmanager
def open_page(url: str) -> Iterator[Page]:
    """Open `url` in Debian's Chromium and close it in the end; a test is skipped where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.route("**/*", _stay_here)
        page.goto(url)
        yield page
        browser.close()


def _stay_here(route: Route) -> None:
    """Abort what would leave the machine: a page must do without."""
    address = urlsplit(route.request.url)
    if address.hostname in (None, "127.0.0.1", "localhost"):
        route.continue_()
    else:
        route.abort()
