from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dcf.build import schema
from dcf.build.project import load_project
from dcf.build.runtimes import list_runtimes, template_folder
from dcf.build.schema import Key, read_manual

KEYS_OF_THE_ORIGINAL = {
    "runtime", "desc", "maintainer", "handler", "docker_registry", "image", "environment", "skip_build", "limits",
    "build_args", "build_packages",
}  # fmt: skip
KEYS_OF_OURS = {
    "constraints",
    "replicas", "concurrency", "workers", "batch", "timeout", "start_timeout", "kill_after", "queue", "max_payload",
    "debug", "scaling",
}  # fmt: skip


def every_key(key: Key) -> Iterator[Key]:
    for child in key.keys.values():
        yield child
        yield from every_key(child)


def test_the_annotated_example_is_a_function_file_itself() -> None:
    project = load_project(Path(str(template_folder().joinpath("config.yaml"))), check_files=False)

    assert list(project.functions) == ["echo", "classifier"]


def test_the_manual_has_every_key_and_a_kind_for_each() -> None:
    manual = read_manual()

    assert set(manual.keys) == {"functions", "dcf"}
    assert set(manual.keys["functions"].keys[""].keys) == KEYS_OF_THE_ORIGINAL | KEYS_OF_OURS
    for key in every_key(manual):
        known = key.kind == "mapping" or key.kind in schema._CHECKS or key.kind.startswith("one of ")
        assert known or schema._WHOLE.fullmatch(key.kind) or schema._NUMBER.fullmatch(key.kind), key


def test_every_key_of_the_manual_has_a_sentence_about_its_meaning() -> None:
    lines = template_folder().joinpath("config.yaml").read_text(encoding="utf-8").splitlines()

    for number, line in enumerate(lines):
        if line.lstrip().startswith("#:"):
            assert re.match(r"\s*# \S", lines[number + 1]), f"line {number + 2}: {line}"


def test_every_runtime_has_its_template() -> None:
    for runtime in list_runtimes().values():
        template = template_folder() / runtime.name
        assert template.joinpath("src", runtime.handler_file).is_file()
        assert template.joinpath("config.yaml").is_file()
