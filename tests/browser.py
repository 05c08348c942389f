"""Chromium without a screen, which reaches nothing but this machine."""

import shutil
from contextlib import contextmanager

from playwright.sync_api import sync_playwright

_FLAGS = (
    "--no-sandbox",  # CI is root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    # Pages behind others are as quick as the one in front.
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
)


@contextmanager
def chromium():
    """A browser: Debian's where there is one, else the one that Playwright has downloaded."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell"), args=list(_FLAGS)
        )
        try:
            yield browser
        finally:
            browser.close()
