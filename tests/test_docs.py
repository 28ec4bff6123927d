"""The manual names only what is there: files, headings, commands, options, variables."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from dcf.build.cuda import choose_cuda_image
from dcf.cli.main import app
from dcf.cluster.settings import ClusterSettings
from dcf.env import USER_NAMES
from dcf.gateway.settings import GatewaySettings
from dcf.scheduler.settings import SchedulerSettings
from dcf.watcher.settings import WatcherSettings
from tests.pages import DOCS, ROOT, Block, anchors, read_blocks, read_inline, read_links

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SETTINGS = (ClusterSettings, GatewaySettings, SchedulerSettings, WatcherSettings)
_VARIABLE = re.compile(r"\bDCF_[A-Z_]*[A-Z]\b")
_ASSIGNMENT = re.compile(r"\w+=\S*")
_SEPARATOR = re.compile(r"\||;|&&|\$\(|\(|\)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in read_links(page):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    listed = set(read_links(DOCS / "README.md"))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= listed
    assert "docs/README.md" in read_links(ROOT / "README.md")


@each_page
def test_every_command_and_option_is_one_of_dcf(page: Path) -> None:
    root: Any = typer.main.get_command(app)
    for text in commands(page):
        refuse_unknown(root, text)


def commands(page: Path) -> Iterator[str]:
    """What is typed after `dcf`; and in the text, `deploy --no-push` and its like."""
    root: Any = typer.main.get_command(app)
    verbs = {*root.commands, *root.commands["function"].commands} - {"function", "config", "runtime"}
    lines = [line for block in read_blocks(page) if block.kind in {"", "console", "sh"} for line in block.lines]
    for text in [*lines, *read_inline(page)]:
        for part in _SEPARATOR.split(text.split(" #")[0]):
            words = part.split()
            while words and _ASSIGNMENT.fullmatch(words[0]):
                del words[0]
            if words[:1] == ["dcf"] and len(words) > 1 and words[1] not in {"...", "──┤"}:
                yield " ".join(words[1:])
            elif words and words[0] in verbs and "--" in part and text not in lines:
                yield part if words[0] in root.commands else f"function {part}"


def refuse_unknown(command: Any, text: str) -> None:
    words = shlex.split(text.replace("'", ""))
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"dcf {text}: there is no {words[0]!r}"
        command = command.commands[words.pop(0)]
    options = {name for param in command.params for name in param.opts} | {"--help", "-h", "--debug"}
    for word in words:
        if word.startswith("-") and word != "-":
            assert word.partition("=")[0] in options, f"dcf {text}: there is no option {word}"


@each_page
def test_every_variable_is_one_that_dcf_reads(page: Path) -> None:
    known = {f"DCF_{field.name.upper()}" for cls in SETTINGS for field in dataclasses.fields(cls)} | USER_NAMES
    assert set(_VARIABLE.findall(page.read_text())) <= known


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_block_is_one_that_a_test_knows(page: Path) -> None:
    def is_known(block: Block) -> bool:
        if block.kind == "console":
            return block.tag in {"", "compose", "box1"}
        return (block.kind, block.tag) == ("sh", "norun") or block.kind in {"yaml", "json", "toml", "go", "js"}

    blocks = read_blocks(page)
    assert [block for block in blocks if not is_known(block)] == []
    if any(block.kind == "console" for block in blocks):
        # Who types them: it needs engines, or a cluster, so here it is only looked whether it names the page.
        typists = (ROOT / "tests" / "engine" / "test_docs.py", ROOT / "tests" / "flows" / "test_scaling_docs.py")
        assert any(f'"{page.name}"' in typist.read_text() for typist in typists)


def test_the_cuda_images_are_those_that_a_build_takes() -> None:
    rows = re.findall(r"^\| (.+?) \| `(nvidia/cuda:\S+)` \|$", (DOCS / "images.md").read_text(), re.MULTILINE)
    assert len(rows) == 3
    for asked, image in rows:
        given = dict(re.findall(r"(CUDA|CUDNN|UBUNTU)_VERSION=([\d.]+)", asked))
        assert choose_cuda_image(given.get("CUDA", ""), given.get("CUDNN", ""), given.get("UBUNTU", "")).name == image
