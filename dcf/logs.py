"""One line a log record: a fixed sentence, then its fields.

`log.info("replicas changed", extra={"function": name, "to": 4})` becomes
`2026-11-23T10:00:00.123Z info scheduler.control_loop: replicas changed function=echo to=4`.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from dcf.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """Sentence plus `key=value`; values with blanks are quoted."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = "".join(
            f" {key}={_show(value)}" for key, value in vars(record).items() if key not in _STANDARD and value != ""
        )
        name = record.name.removeprefix("dcf.")
        line = f"{at}.{int(record.msecs):03d}Z {record.levelname.lower()} {name}: {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _show(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "\n\t=') else text


def configure_logs(level: str = "info") -> None:
    """Send the process's records to stderr as lines. Raises ConfigError."""
    if level not in LEVELS:
        raise ConfigError(f"DCF_LOG_LEVEL={level!r} is not allowed: expected one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
