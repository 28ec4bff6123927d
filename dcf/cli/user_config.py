"""What the user set once for every command: `dcf config set`.

$DCF_CONFIG, else ~/.config/dcf/config.yaml. Keys: gateway, token_file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dcf.errors import ConfigError

KEYS = {
    "gateway": "host:port of the gateway that commands talk to",
    "token_file": "file with the token for management calls",
}


def config_path() -> Path:
    """Where the file is, or would be."""
    if named := os.environ.get("DCF_CONFIG"):
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "dcf" / "config.yaml"


def read_user_config() -> dict[str, str]:
    """The settings that are there. Raises ConfigError naming the file and the key."""
    path = config_path()
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data: Any = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {data!r}: expected a mapping with {', '.join(KEYS)}")
    for key, value in data.items():
        check_key(str(key), f"{path}: ")
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {key}={value!r} is not allowed: expected a text, {KEYS[key]}")
    return dict(data)


def check_key(key: str, where: str = "") -> None:
    """Raises ConfigError for a key that is not known."""
    if key not in KEYS:
        raise ConfigError(f"{where}unknown key {key!r}: expected one of {', '.join(KEYS)}")


def write_user_config(settings: dict[str, str]) -> Path:
    """Replace the file, whole or not at all. Raises ConfigError."""
    import json

    path = config_path()
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in sorted(settings.items())]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text("".join(lines))
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    return path
