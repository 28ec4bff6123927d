"""`docs/scaling.md`: its commands, as a reader types them, and each name and number in it beside the code's."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from dcf.build.project import load_project
from dcf.cli.describe import SHOWN_DECISIONS
from dcf.domain.scaling import LABELS, ScaleDecision, parse_scaling, scaling_to_request
from dcf.scheduler import autoscaler, load_window, scaler
from dcf.scheduler.autoscaler import RULES
from tests.engine.commands import missing
from tests.flows.cluster import Cluster
from tests.flows.user import User
from tests.pages import DOCS, Block, read_blocks

PAGE = DOCS / "scaling.md"
METRICS = "curl -sS --fail http://127.0.0.1:32222/metrics"
FUNCTION = "curl -sS --fail http://127.0.0.1:32222/system/function/echo"
_NAMES = re.compile(r"`([^`]+)`")
_LIMIT = re.compile(r"held it back: (.+?);")


class Reader(User):
    """Has an empty folder, and a cluster of which only the address is not the page's."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.folder = cluster.work
        self.environ = {**cluster.environ, "DCF_LISTEN": cluster.address}
        self.add_to_path(Path(sys.executable).parent)

    def follow(self) -> dict[str, str]:
        """The page from top to bottom; what each command printed, of the last time."""
        said: dict[str, str] = {}
        for block in read_blocks(PAGE):
            if block.kind == "console":
                said |= {line: self.type(line).stdout for line in block.lines}
            elif block.tag:
                self.edit(block)
        return said

    def edit(self, block: Block) -> None:
        """Do with the file what the page shows: `scaling` in place of `replicas`."""
        yaml, file = YAML(), self.folder / block.tag
        content = yaml.load(file.read_text())
        for name, more in yaml.load(block.text)["functions"].items():
            del content["functions"][name]["replicas"]
            content["functions"][name].update(more)
        with file.open("w") as out:
            yaml.dump(content, out)


def table(title: str) -> list[tuple[str, ...]]:
    """The rows of the table whose first column is called so, cell by cell."""
    lines = PAGE.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"| {title} |"))
    rows = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip() for cell in line.strip("|").split(" | ")))
    return rows


def names(cell: str) -> set[str]:
    return set(_NAMES.findall(cell))


def first_names(title: str) -> set[str]:
    return {name for row in table(title) for name in names(row[0])}


def limits_of(module: ModuleType) -> set[str]:
    """Each text that a module gives to something called `limit` or `why`, or returns as the second of two."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.keyword) and node.arg:
            pairs = [(ast.Name(node.arg), node.value)]
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
            pairs = [(ast.Name("limit"), node.value.elts[1])]
        for name, value in pairs:
            if ast.unparse(name) in {"limit", "why"}:
                either = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
                found |= {one.value for one in either if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return found - {""}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_scaling(cluster: Cluster) -> None:
    if shutil.which("curl") is None:
        missing("no curl: apt-get install curl")
    said = Reader(cluster).follow()

    assert said["curl -d Hello http://127.0.0.1:32222/function/echo"] == "Hello"
    assert "0 to 4 replicas" in said["dcf function describe echo"]
    assert said["dcf function scale echo --min 0 --max 8"].startswith("echo follows its calls: 0 to 8 replicas")
    assert said["dcf function scale echo 2"] == "echo shall have 2 replicas (pinned by hand)\n"
    assert said["dcf function scale echo --auto"].startswith("echo follows its calls: 0 to 8 replicas")
    assert re.search(r"^echo .*~\d/\d", said["dcf top --once"], re.MULTILINE)
    function = json.loads(said[FUNCTION])
    assert_json_is_that_of_the_page(function)
    assert_metrics_are_those_of_the_page(said[METRICS])


def assert_json_is_that_of_the_page(function: dict[str, Any]) -> None:
    assert {"replicas", "availableReplicas", "elastic", "scaled"} <= function.keys()
    assert function["decisions"], "a decision was made"
    for objects, keys in table("object"):
        [name] = names(objects)
        value = function[name]
        assert list(value[0] if isinstance(value, list) else value) == _NAMES.findall(keys), name


def assert_metrics_are_those_of_the_page(text: str) -> None:
    page = {name: names(labels) for cell, labels, _ in table("metric") for name in names(cell)}
    seen = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        seen[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert page.keys() == seen.keys()
    # Of a metric that nothing is counted in yet there are no labels.
    assert {name: labels for name, labels in page.items() if seen[name]} == {n: ls for n, ls in seen.items() if ls}


def test_every_key_of_scaling_stands_there_with_its_default() -> None:
    template = YAML().load((DOCS.parent / "templates" / "config.yaml").read_text())
    [keys] = [one["scaling"] for one in template["functions"].values() if "scaling" in one]
    assert first_names("key of `scaling`") == keys.keys()

    rows = {name: default for cell, default, _ in table("key of `scaling`") for name in names(cell)}
    for key, value in scaling_to_request(parse_scaling({})).items():
        assert rows[key] == f"`{value}`", key


def test_every_label_stands_there_with_its_key() -> None:
    said = {label: meaning for cell, meaning in table("label") for label in names(cell)}
    assert said.keys() == LABELS.keys()
    for label, key in LABELS.items():
        assert said[label].startswith(f"`{key}`")


def test_every_rule_stands_there_with_its_number() -> None:
    rows = {title.replace("-", " "): number for title, number, _ in table("rule")}
    rules = {
        field.name.removesuffix("_s").replace("_", " "): f"{getattr(RULES, field.name):g}"
        + (" s" if field.name.endswith("_s") else "")
        for field in dataclasses.fields(RULES)
    }
    assert rows == rules
    assert f"clears the line within {load_window.CLEARED_S:g} s" in PAGE.read_text()
    assert f"last decisions ({SHOWN_DECISIONS} of {scaler.KEPT} that are" in PAGE.read_text()


def test_every_limit_stands_there() -> None:
    code = limits_of(autoscaler) | limits_of(scaler)
    assert {"window", "silence", "supply", "idle", "min", "max"} <= code, "the code says its limits in another way now"

    assert first_names("limit") == code

    said = _LIMIT.search(" ".join(inspect.getsource(ScaleDecision).split()))
    assert said is not None
    assert set(re.split(r", | or ", said[1])) == code, "the docstring of ScaleDecision"


def test_the_model_that_starts_slowly_is_a_function_file(tmp_path: Path) -> None:
    [block] = [one for one in read_blocks(PAGE) if one.kind == "yaml" and not one.tag]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "handler.py").write_text("def Handler(req):\n    return req.input\n")
    (tmp_path / "config.yaml").write_text(block.text)

    [function] = load_project(tmp_path / "config.yaml").functions.values()

    assert function.scaling is not None
    assert parse_scaling(function.scaling).target == 8
