"""What a function file may say: read from the annotated templates/config.yaml.

There the comment line before a key that begins with "#:" says what the key takes:
`#: <kind>[; default <value>][; required]`. So the manual cannot lie: a key that is
not in it is refused, and a kind that this room does not know stops the first test.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from dcf.build.config_file import Node, parse, show
from dcf.build.runtimes import list_runtimes, template_folder
from dcf.domain.names import FUNCTION_RULE, check_function_name
from dcf.domain.quantity import parse_cpu, parse_duration, parse_gpu, parse_memory
from dcf.errors import ConfigError, InvalidInputError

_WHOLE = re.compile(r"whole number from (\d+) to (\d+)")
_NUMBER = re.compile(r"number above ([\d.]+)(?: up to ([\d.]+))?")
ADDRESS_FORM = "host:port, such as 127.0.0.1:32222"
_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of the manual."""

    name: str
    kind: str
    default: str | None = None
    required: bool = False
    keys: Mapping[str, Key] = field(default_factory=dict)
    """Of a mapping."""


@cache
def read_manual() -> Key:
    """The tree of keys; `functions` holds one entry, "", that is the form of every function."""
    text = template_folder().joinpath("config.yaml").read_text(encoding="utf-8")
    root = parse(text, Path("templates/config.yaml"))
    lines = text.splitlines()
    top = {str(name): _key(str(name), node, lines) for name, node in root.items()}
    merged: dict[str, Key] = {}
    for _, example in root.child("functions").items():
        for name, node in example.items():
            key = _key(str(name), node, lines)
            if key.kind or name not in merged:
                merged[str(name)] = key
    one = Key(name="", kind="mapping", keys=merged)
    top["functions"] = Key(name="functions", kind="mapping", required=True, keys={"": one})
    return Key(name="", kind="mapping", keys=top)


def _key(name: str, node: Node, lines: list[str]) -> Key:
    note = _note(node.line - 1, lines)
    kind, *rest = [part.strip() for part in note.split(";")]
    default = next((part.removeprefix("default ") for part in rest if part.startswith("default ")), None)
    keys: dict[str, Key] = {}
    if node.is_map and name != "functions":
        keys = {str(child): _key(str(child), value, lines) for child, value in node.items()}
    return Key(name=name, kind=kind, default=default, required="required" in rest, keys=keys)


def _note(index: int, lines: list[str]) -> str:
    while index > 0 and lines[index - 1].lstrip().startswith("#"):
        index -= 1
        if lines[index].lstrip().startswith("#:"):
            return lines[index].lstrip().removeprefix("#:").strip()
    return ""


def check_mapping(node: Node, key: Key) -> dict[str, Any]:
    """The checked values by key, absent ones with their defaults ("", {} or () where there is none).

    Raises ConfigError for what the manual does not have, the first one in the file's order.
    """
    if not node.is_map:
        raise node.refuse(f"a mapping with {one_of(key.keys)}")
    for name, child in node.items():
        if name not in key.keys:
            raise ConfigError(f"{child.place}unknown key{_suggest(name, key.keys)}; expected {one_of(key.keys)}")
    values: dict[str, Any] = {}
    for name, wanted in key.keys.items():
        given = node.child(name) if name in node.value else None
        if given is None or given.value is None or (given.value == "" and wanted.kind not in _OWN_EMPTY):
            if wanted.required:
                raise ConfigError(f"{node.place}{name} is missing: expected {_expected(wanted)}")
            values[name] = _default(wanted)
        else:
            values[name] = check(given, wanted)
    return values


def check(node: Node, key: Key) -> Any:
    """The value of `node`, checked against its line in the manual."""
    if key.kind == "mapping":
        return check_mapping(node, key)
    if (bounds := _WHOLE.fullmatch(key.kind)) is not None:
        low, high = int(bounds[1]), int(bounds[2])
        value = node.plain()
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise node.refuse(f"a {key.kind}")
        return value
    if (above := _NUMBER.fullmatch(key.kind)) is not None:
        value = node.plain()
        good = not isinstance(value, bool) and isinstance(value, (int, float)) and value > float(above[1])
        if not good or (above[2] and value > float(above[2])):
            raise node.refuse(f"a {key.kind}")
        return value
    if key.kind.startswith("one of "):
        choices = key.kind.removeprefix("one of ").split(", ")
        if node.value not in choices:
            raise ConfigError(f"{node.refuse(key.kind)}{_suggest(node.value, choices)}")
        return node.plain()
    return _CHECKS[key.kind](node)


def check_name(node: Node, name: Any) -> str:
    """A function's name, which is a key of the file."""
    try:
        return check_function_name(name)
    except (InvalidInputError, TypeError):
        raise ConfigError(
            f"{node.file}:{node.line}: functions: the name {show(name)} is not allowed: expected {FUNCTION_RULE}"
        ) from None


def _suggest(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def one_of(names: Iterable[str]) -> str:
    """`a`, or `one of a, b, c`."""
    known = list(names)
    return known[0] if len(known) == 1 else f"one of {', '.join(known)}"


def _default(key: Key) -> Any:
    if key.kind == "mapping":
        return {name: _default(child) for name, child in key.keys.items()}
    if key.default is None:
        return () if key.kind == "list of texts" else {} if key.kind.startswith("list") else ""
    if key.kind == "flag":
        return key.default == "true"
    return int(key.default) if key.kind.startswith("whole") else key.default


def _expected(key: Key) -> str:
    return one_of(list_runtimes()) if key.kind == "runtime" else f"a {key.kind}"


def _text(node: Node) -> str:
    if not isinstance(node.value, str):
        raise node.refuse(f"a text; in quotes it is one: '{node.plain()}'" if _scalar(node) else "a text")
    return str(node.value)


def _scalar(node: Node) -> bool:
    return isinstance(node.value, (bool, int, float))


def _runtime(node: Node) -> str:
    if not isinstance(node.value, str) or node.value not in list_runtimes():
        raise ConfigError(f"{node.refuse(one_of(list_runtimes()))}{_suggest(node.value, list_runtimes())}")
    return str(node.value)


def _path(node: Node) -> str:
    text = _text(node)
    if "\0" in text:
        raise node.refuse("the path of a folder")
    return text


def _file_name(node: Node) -> str:
    text = _path(node)
    if text.startswith("/") or ".." in Path(text).parts:
        raise node.refuse("a file inside handler.dir, such as handler.py")
    return text


def _identifier(node: Node) -> str:
    if not isinstance(node.value, str) or not node.value.isidentifier():
        raise node.refuse("the name of a class or function, such as Handler")
    return str(node.value)


def _flag(node: Node) -> bool:
    if not isinstance(node.value, bool):
        raise node.refuse("true or false")
    return node.value


def _quantity(read: Callable[[Any], object], *, positive: bool = False) -> Callable[[Node], str]:
    def checked(node: Node) -> str:
        try:
            if not isinstance(node.value, str) and not _scalar(node):
                raise node.refuse("a number or a text, such as 1")
            if read(node.plain()) == 0 and positive:
                raise node.refuse("a duration above 0")
        except InvalidInputError as error:
            expected = error.message.partition(" is not ")[2]
            raise node.refuse(expected) from None
        return str(node.plain())

    return checked


def _texts(node: Node) -> tuple[str, ...]:
    if not isinstance(node.value, list):
        raise node.refuse("a list of texts, each on its own line after a dash")
    return tuple(_text(element) for element in node.elements())


def _pairs(node: Node) -> dict[str, str]:
    if not isinstance(node.value, list):
        raise node.refuse('a list of "KEY=value", each on its own line after a dash')
    pairs: dict[str, str] = {}
    for element in node.elements():
        name, equals, value = element.value.partition("=") if isinstance(element.value, str) else ("", "", "")
        if not equals or not name.strip() or "\0" in element.value:
            raise element.refuse('a text "KEY=value"')
        if name != name.strip():
            raise element.refuse('a text "KEY=value" without blanks around KEY')
        if name in pairs:
            raise ConfigError(f"{element.place}{name} is there twice: expected each name once")
        pairs[name] = value
    return pairs


def is_address(text: str) -> bool:
    """Whether `text` is host:port; an IPv6 host stands in brackets."""
    match = _HOST_PORT.fullmatch(text)
    return match is not None and 1 <= int(match[2]) <= 65535


def _address(node: Node) -> str:
    if not isinstance(node.value, str) or not is_address(node.value):
        raise node.refuse(ADDRESS_FORM)
    return str(node.value)


_CHECKS: Mapping[str, Callable[[Node], Any]] = {
    "anything": Node.plain,
    "text": _text,
    "runtime": _runtime,
    "path": _path,
    "file name": _file_name,
    "identifier": _identifier,
    "flag": _flag,
    "memory": _quantity(parse_memory),
    "cpu": _quantity(parse_cpu),
    "gpu": _quantity(parse_gpu),
    "duration": _quantity(parse_duration, positive=True),
    "duration or 0": _quantity(parse_duration),
    "list of texts": _texts,
    "list of KEY=value": _pairs,
    "host:port": _address,
}
# Kinds for which "" is a wrong value, not an absent one.
_OWN_EMPTY = frozenset({"identifier", "flag", "runtime"})
