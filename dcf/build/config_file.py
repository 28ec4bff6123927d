"""Read a YAML file, knowing the line of everything in it.

In:   the path of a file that a person wrote.
Out:  Node: a value with its key path and line; its `refuse` is the one form of all
      complaints: `config.yaml:12: functions.echo.replicas: "two" is not allowed: expected ...`.
It says nothing about which keys are allowed: schema.py does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from dcf.errors import ConfigError

MAX_BYTES = 1_000_000  # a config file of a megabyte is some other file


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One value of the file. `value` is as ruamel read it: CommentedMap, CommentedSeq or a scalar."""

    file: Path
    line: int
    """From 1: where the key stands, or the item of a list."""
    path: str
    """`functions.echo.limits.memory`; "" for the whole file."""
    value: Any

    def refuse(self, expected: str) -> ConfigError:
        """The error that says file, line, key, value and what was expected."""
        return ConfigError(f"{self.place}{show(self.value)} is not allowed: expected {expected}")

    @property
    def place(self) -> str:
        """`config.yaml:12: functions.echo: `, what every complaint begins with."""
        return f"{self.file}:{self.line}: " + (f"{self.path}: " if self.path else "")

    @property
    def is_map(self) -> bool:
        """Whether it has keys."""
        return isinstance(self.value, CommentedMap)

    def items(self) -> Iterator[tuple[Any, Node]]:
        """The keys of a mapping with their values, in the file's order."""
        for key in self.value:
            yield key, self.child(key)

    def child(self, key: Any) -> Node:
        """The value of `key`, which must be there."""
        try:
            line = self.value.lc.key(key)[0] + 1
        except (KeyError, AttributeError, TypeError):  # merged in by `<<`: it stands elsewhere
            line = self.line
        path = f"{self.path}.{key}" if self.path else str(key)
        return Node(file=self.file, line=line, path=path, value=self.value[key])

    def elements(self) -> Iterator[Node]:
        """The items of a list."""
        for index, value in enumerate(self.value):
            try:
                line = self.value.lc.item(index)[0] + 1
            except (KeyError, AttributeError, TypeError):
                line = self.line
            yield Node(file=self.file, line=line, path=f"{self.path}[{index}]", value=value)

    def plain(self) -> Any:
        """The value in Python's own types, without ruamel's."""
        return _plain(self.value)


def show(value: Any) -> str:
    """A value as a message shows it: short, and a text in quotes."""
    if isinstance(value, CommentedMap):
        return "a mapping"
    if isinstance(value, CommentedSeq):
        return "a list"
    if value is None:
        return "nothing"
    plain = _plain(value)
    text = json.dumps(plain, ensure_ascii=False) if isinstance(plain, (str, bool, int, float)) else str(plain)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, CommentedMap):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, CommentedSeq):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def read_text(path: Path) -> str:
    """The file's text. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; `dcf function init NAME --runtime python` makes one"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(data)} bytes are too many for a config file: expected at most {MAX_BYTES}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: byte {data[error.start]:#04x} is no text: expected UTF-8") from error


def parse(text: str, path: Path) -> Node:
    """Raises ConfigError with the line where the text is no YAML, or names a key twice."""
    try:
        value = yaml_reader().load(text)
    except MarkedYAMLError as error:
        raise _broken(error, path) from error
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        character = error.character if isinstance(error.character, str) else chr(error.character)
        raise ConfigError(f"{path}:{line}: the character {character!r} is not allowed in YAML") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    except (YAMLError, ValueError, TypeError, AttributeError, NotImplementedError, LookupError) as error:
        # ruamel lets odd scalars, such as the date 2020-13-45, escape as Python's own errors.
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    return Node(file=path, line=1, path="", value=value)


def yaml_reader() -> YAML:
    """A YAML that keeps comments and quotes, for reading and for writing a file again."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _broken(error: MarkedYAMLError, path: Path) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    problem = str(error.problem or error.context or "not understood").strip()
    if isinstance(error, DuplicateKeyError):
        problem = problem.split(" with value")[0].replace("found duplicate key", "this key is there twice:")
    elif "'\\t'" in problem:
        problem = "a tab is not allowed for indentation: expected spaces"
    elif "expected a single document" in str(error.context or ""):
        problem = "a second document begins here: expected one"
    else:
        problem = f"this is no YAML: {problem}"
    return ConfigError(f"{path}:{line}: {problem}")
