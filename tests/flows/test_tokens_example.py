"""examples/tokens says its words one by one: in a terminal and in a real browser."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.flows.browser import open_browser
from tests.flows.cluster import DCF, Cluster, until

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "tokens"
SHELL, PYTHON = (re.findall(rf"^```{kind}\n(.*?)^```", (EXAMPLE / "README.md").read_text(), re.M | re.S)
                 for kind in ("", "python"))  # fmt: skip
TEXT = "to be or not to be"
LONG = "x" * 41
NO_END_S = 30
"""The pause of `slow`: what is seen before it is over was streamed."""


@pytest.fixture(scope="module")
def tokens(shared_cluster: Cluster) -> Cluster:
    """The example as it is, as `slow` with long pauses, `once` to count its calls, `gone` to be deleted."""
    build = SHELL[0].splitlines()[:2]
    for name, pause_s in (("tokens", 0), ("slow", NO_END_S), ("once", 0), ("gone", 0)):
        folder = shared_cluster.work / name
        shutil.copytree(EXAMPLE, folder)
        config = folder / "config.yaml"
        text = config.read_text().replace("  tokens:", f"  {name}:").replace("PAUSE_S=0.05", f"PAUSE_S={pause_s}")
        assert f"PAUSE_S={pause_s}" in text
        config.write_text(text)
        for line in build:
            shell(shared_cluster, line, cwd=folder)
    return shared_cluster


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def shell(cluster: Cluster, line: str, *, cwd: Path | None = None) -> str:
    """What a line of the README writes."""
    line = line.replace("127.0.0.1:32222", cluster.address)
    if line.startswith("dcf "):
        line = f"{shlex.join(DCF)} {line.removeprefix('dcf ')}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=cwd, env=cluster.environ, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}\n{cluster.logs()}"
    return done.stdout


def curl(cluster: Cluster, name: str, *args: str) -> tuple[int, str]:
    """curl's exit status and what it writes: the body, then a line with the HTTP status."""
    line = ["curl", "-sN", "-m", "20", "-w", "\n%{http_code}", *args, f"{cluster.url}/function/{name}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout


def count(cluster: Cluster, name: str) -> int:
    return int(cluster.function(name)["invocationCount"])


def log_of(cluster: Cluster, name: str) -> str:
    return cluster.run("function", "log", name).stdout


def events(text: str) -> str:
    words = [*re.findall(r"\S+\s*", text), ""]
    return "".join(f"id: {number}\ndata: {word}\n\n" for number, word in enumerate(words))


# -- in a terminal ---------------------------------------------------------------


def test_the_readme_s_commands_say_the_text(tokens: Cluster) -> None:
    (_, _, plain), (posted, got), (invoke,) = (block.splitlines() for block in SHELL)
    assert shell(tokens, plain) == TEXT
    assert shell(tokens, posted) == events(TEXT)
    assert shell(tokens, got) == events(TEXT)
    assert shell(tokens, invoke) == TEXT

    (program,) = PYTHON
    said = subprocess.run(
        [sys.executable, "-c", program.replace("127.0.0.1:32222", tokens.address)],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert said.stdout == f"{TEXT}\nthat is the question\n"


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_the_first_word_comes_while_the_handler_still_pauses(tokens: Cluster, accept: str) -> None:
    before = log_of(tokens, "slow").count("said 1 of 6 words")
    line = ["curl", "-sN", "-H", f"Accept: {accept}", "-d", TEXT, f"{tokens.url}/function/slow"]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout
            ready, _, _ = select.select([running.stdout], [], [], NO_END_S / 2)
            assert ready, "no word came"
            first = os.read(running.stdout.fileno(), 1000)
            assert first == (b"to " if accept == "*/*" else b"id: 0\ndata: to \n\n")
            assert running.poll() is None
        finally:
            running.kill()

    until(
        lambda: log_of(tokens, "slow").count("said 1 of 6 words") > before,
        limit_s=NO_END_S / 2, what="the handler to be cancelled, for its caller has gone",
    )  # fmt: skip


def test_the_words_together_are_the_text(tokens: Cluster) -> None:
    text = "  two  blanks,\na line, ünïcödé 語 \n"
    assert curl(tokens, "tokens", "--data-binary", text) == (0, f"{text}\n200")
    assert curl(tokens, "tokens", "-G", "--data-urlencode", f"text={text}") == (0, f"{text}\n200")


def test_a_word_that_is_too_long_breaks_the_stream_off(tokens: Cluster) -> None:
    text = f"to be {LONG} or not"
    assert curl(tokens, "tokens", "-d", text) == (18, "to be \n200")

    status, answer = curl(tokens, "tokens", "-H", "Accept: text/event-stream", "-d", text)
    assert status == 0
    to, be, error, _ = answer.split("\n\n")
    assert (to, be) == ("id: 0\ndata: to ", "id: 1\ndata: be ")
    assert error.startswith("event: error\ndata: ")
    assert "41 letters" in json.loads(error.partition("data: ")[2])["error"]["message"]

    invoked = tokens.run("function", "invoke", "tokens", "--stream", "--data", text, check=False)
    assert (invoked.returncode, invoked.stdout) == (1, "to be ")
    assert "41 letters" in invoked.stderr


@pytest.mark.parametrize(
    "args", [("-d", ""), ("-d", " "), ("-d", "\udcff"), ("-G", "-d", "text="), ("-G", "-d", "text=%ff"), ()]
)
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_bad_input_is_a_400(tokens: Cluster, accept: str, args: tuple[str, ...]) -> None:
    status, answer = curl(tokens, "tokens", "-H", f"Accept: {accept}", *args)
    body, _, http = answer.rpartition("\n")
    assert (status, http) == (0, "400")
    assert json.loads(body)["error"]["code"] == "invalid_input"


# -- in a browser ----------------------------------------------------------------


def open_page(browser: webdriver.Chrome, cluster: Cluster, name: str) -> None:
    browser.get(f"{cluster.url}/function/{name}/")
    assert browser.title == "tokens · DCF"


def say(browser: webdriver.Chrome, text: str, button: str) -> None:
    field = browser.find_element(By.ID, "text")
    field.clear()
    field.send_keys(text)
    browser.find_element(By.ID, button).click()


def words(browser: webdriver.Chrome) -> list[str]:
    """Each is an element of its own, so that this tells chunks from a text that came whole."""
    return [str(word.get_property("textContent")) for word in browser.find_elements(By.CSS_SELECTOR, "#words span")]


def status(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "status").text


def until_status(browser: webdriver.Chrome, begin: str) -> str:
    def there() -> str:
        text = status(browser)
        return text if text.startswith(begin) else ""

    return str(until(there, limit_s=NO_END_S / 2, what=f"the page to say {begin!r}; it says {status(browser)!r}"))


def test_the_page_shows_the_words_and_knows_the_end(tokens: Cluster, browser: webdriver.Chrome) -> None:
    open_page(browser, tokens, "once")
    calls = 1  # the page itself

    for button in ("sse", "ws"):
        say(browser, TEXT, button)
        assert until_status(browser, "Done").startswith("Done: 6 words in ")
        assert words(browser) == ["to ", "be ", "or ", "not ", "to ", "be"]
        assert not browser.find_element(By.ID, "stop").is_enabled()
        calls += 1
        until(lambda calls=calls: count(tokens, "once") == calls, what="the call to be counted")

    # Chromium connects again 3 s after an EventSource's end, unless it was closed; a count is up to 1 s old.
    with pytest.raises(AssertionError, match="not within 5 s"):
        until(lambda: count(tokens, "once") != calls, limit_s=5)
    entries = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert len([url for url in browser.execute_script(entries) if "?text=" in url]) == 1
    assert status(browser).startswith("Done: 6 words in ")


@pytest.mark.parametrize("button", ["sse", "ws"])
def test_the_page_says_what_went_wrong(tokens: Cluster, browser: webdriver.Chrome, button: str) -> None:
    open_page(browser, tokens, "tokens")

    say(browser, f"to be {LONG} or not", button)
    assert "a word of 41 letters is too long" in until_status(browser, "Broke off after 2 words: ")
    assert words(browser) == ["to ", "be "]

    say(browser, " ", button)
    until(lambda: "there is nothing to say" in status(browser), what="the reason of the refusal")
    assert words(browser) == []

    say(browser, "better now", button)
    until_status(browser, "Done: 2 words")


def test_the_page_says_that_the_function_is_gone(tokens: Cluster, browser: webdriver.Chrome) -> None:
    open_page(browser, tokens, "gone")
    tokens.run("function", "delete", "gone")

    for button in ("sse", "ws"):
        say(browser, TEXT, button)
        until_status(browser, "no function 'gone' is deployed")
        browser.execute_script("document.getElementById('status').textContent = ''")


@pytest.mark.parametrize("button", ["sse", "ws"])
def test_stop_cancels_the_handler(tokens: Cluster, browser: webdriver.Chrome, button: str) -> None:
    open_page(browser, tokens, "slow")
    text = f"stop {button} in time"
    before = log_of(tokens, "slow").count("said 1 of 4 words")

    say(browser, text, button)
    until(lambda: words(browser) == ["stop "], limit_s=NO_END_S / 2, what="the first word")
    assert status(browser) == "1 word"
    browser.find_element(By.ID, "stop").click()

    assert status(browser) == "Stopped after 1 word."
    until(
        lambda: log_of(tokens, "slow").count("said 1 of 4 words") > before,
        limit_s=NO_END_S / 2, what="the handler's own last line",
    )  # fmt: skip
    assert words(browser) == ["stop "]
