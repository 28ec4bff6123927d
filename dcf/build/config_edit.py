"""Add a function to a function file, and leave every other letter of it alone.

In:   the file, and the text of a function file with the one new function.
Out:  the new text. Where the file is written in a form that lines cannot be put
into (`functions: {...}`), it is written anew by ruamel, comments kept.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

from dcf.build.config_file import Node, parse, read_text, yaml_reader
from dcf.errors import ConfigError


def add_function(file: Path, name: str, addition: str, gateway: str | None) -> str:
    """The text of `file` with the function `name` of `addition` in it.

    Args:
        file: need not exist; then `addition` is the answer.
        gateway: written as `dcf.gateway` where the file names none.

    Raises:
        ConfigError: the file cannot be read, has that function, or names another gateway.
    """
    if not file.exists():
        return addition
    text = read_text(file)
    root = parse(text, file)
    if root.value is None:
        return text + ("" if text.endswith("\n") or not text else "\n") + addition
    if not root.is_map:
        raise root.refuse("a mapping with functions and dcf")
    _refuse_conflicts(root, name, gateway)
    new = parse(addition, file).plain()
    wanted = root.plain()
    wanted["functions"] = {**(wanted.get("functions") or {}), name: new["functions"][name]}
    missing_gateway = gateway is not None and not (wanted.get("dcf") or {}).get("gateway")
    if missing_gateway:
        wanted["dcf"] = {**(wanted.get("dcf") or {}), "gateway": gateway}
    edited = _insert(text, root, addition)
    if edited is not None and missing_gateway and "dcf" not in root.value:
        edited += f'dcf:\n  gateway: "{gateway}"\n'
    # The proof that lines were put where they belong is that the file now says what is wanted.
    if edited is None or not _says(edited, file, wanted):
        edited = _written_anew(text, name, addition, gateway if missing_gateway else None)
    if not _says(edited, file, wanted):
        raise ConfigError(f"{file}: could not add {name} to it: expected functions as a plain mapping; add it by hand")
    return edited


def _refuse_conflicts(root: Node, name: str, gateway: str | None) -> None:
    functions = root.child("functions") if "functions" in root.value else None
    if functions is not None and functions.value is not None:
        if not functions.is_map:
            raise functions.refuse("a mapping of function names")
        if name in functions.value:
            raise ConfigError(f"{functions.child(name).place}is there already, and nothing is overwritten")
    dcf = root.child("dcf") if "dcf" in root.value else None
    if dcf is not None and dcf.value is not None:
        if not dcf.is_map:
            raise dcf.refuse("a mapping with gateway")
        if gateway and dcf.value.get("gateway") not in (None, "", gateway):
            raise dcf.child("gateway").refuse(f"{gateway}, or no --gateway at all: nothing is overwritten")


def _insert(text: str, root: Node, addition: str) -> str | None:
    """The text with the function's lines behind those of the last one; None where there is no such place."""
    functions = root.value.get("functions")
    if not functions or functions.fa.flow_style() or root.value.fa.flow_style():
        return None
    lines = text.splitlines(keepends=True)
    first = root.value.lc.key("functions")[0]
    later = [line for key in root.value if (line := root.value.lc.key(key)[0]) > first]
    at = min(later, default=len(lines))
    # Comments and blank lines before the next key are about that key.
    while at > first + 1 and (not lines[at - 1].strip() or lines[at - 1].startswith("#")):
        at -= 1
    if lines[at - 1][-1:] not in ("\n", "\r"):
        lines[at - 1] += "\n"
    indent = " " * functions.lc.col
    block = textwrap.indent(textwrap.dedent(_function_lines(addition)), indent)
    if "\r\n" in lines[0]:
        block = block.replace("\n", "\r\n")
    return "".join([*lines[:at], block, *lines[at:]])


def _function_lines(addition: str) -> str:
    """What stands between `functions:` and the next key of the top level."""
    lines = addition.splitlines(keepends=True)
    begin = next(index for index, line in enumerate(lines) if line.startswith("functions:")) + 1
    end = next((index for index in range(begin, len(lines)) if lines[index][0] not in " \n"), len(lines))
    return "".join(lines[begin:end])


def _written_anew(text: str, name: str, addition: str, gateway: str | None) -> str:
    yaml = yaml_reader()
    data = yaml.load(text)
    new = yaml_reader().load(addition)["functions"][name]
    if data.get("functions") is None:
        data["functions"] = {}
    elif not data.fa.flow_style():
        data["functions"].fa.set_block_style()
    data["functions"][name] = new
    if gateway is not None:
        if data.get("dcf") is None:
            data["dcf"] = {}
        data["dcf"]["gateway"] = gateway
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _says(text: str, file: Path, wanted: dict[str, Any]) -> bool:
    try:
        return bool(parse(text, file).plain() == wanted)
    except ConfigError:
        return False
