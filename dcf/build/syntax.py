"""Ask the interpreter that will run a handler whether it can read it at all."""

from __future__ import annotations

import json
from pathlib import Path

from dcf.build.interpreters import Interpreter
from dcf.build.steps import read_output
from dcf.errors import BuildError

_TIMEOUT_S = 60.0  # compiling takes milliseconds; a minute bounds a machine that swaps
_CHECK = """
import json, sys
fault = None
try:
    with open(sys.argv[1], "rb") as file:
        compile(file.read(), sys.argv[1], "exec", dont_inherit=True)
except SyntaxError as error:
    fault = [error.msg, error.lineno, error.offset, error.text]
except (ValueError, OverflowError, MemoryError, RecursionError, OSError) as error:
    fault = [str(error) or type(error).__name__, None, None, None]
print(json.dumps(fault))
"""


def check_syntax(file: Path, interpreter: Interpreter) -> None:
    """Compile `file`, without running it. Raises BuildError with file, line and text."""
    answer = read_output([interpreter.path, "-I", "-c", _CHECK, str(file)], timeout_s=_TIMEOUT_S)
    try:
        fault = json.loads(answer or "")
    except ValueError:
        raise BuildError(f"could not check {file}: {interpreter.path} gave no answer") from None
    if fault is None:
        return
    message, line, offset, text = fault
    lines = [f"{file}:{line or 1}: Python {interpreter.version_text} cannot read this: {message}"]
    if text and text.strip():
        shown = text.rstrip().replace("\t", " ")
        indent = len(shown) - len(shown.lstrip())
        lines.append("    " + shown.lstrip())
        if offset and offset > indent:
            lines.append("    " + " " * (offset - indent - 1) + "^")
    raise BuildError("\n".join(lines))
