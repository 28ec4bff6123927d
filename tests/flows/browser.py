"""A real browser for a test: Debian's Chromium, without a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,850",
)


@contextmanager
def open_browser(home: Path) -> Iterator[webdriver.Chrome]:
    """Chromium with an empty profile in `home`. Skips the test where it is not installed; in CI that is a failure."""
    missing = [str(path) for path in (CHROMIUM, DRIVER) if not path.exists()]
    if missing:
        reason = f"no {' and no '.join(missing)}: apt-get install chromium chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (*ARGUMENTS, f"--user-data-dir={home / 'profile'}"):
        options.add_argument(argument)
    # The driver's path is given: Selenium would look for one in the internet.
    service = webdriver.ChromeService(
        str(DRIVER), log_output=str(home / "driver.log"), env={**os.environ, "HOME": str(home)}
    )
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.set_page_load_timeout(20)
        yield browser
    finally:
        browser.quit()
