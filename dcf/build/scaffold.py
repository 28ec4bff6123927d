"""Write a new function: the folder that `dcf function init` makes from a template.

In:   a name, a runtime, where; perhaps a function file to join, perhaps a gateway.
Out:  the files written. Nothing is ever overwritten, and a failure leaves nothing
behind: all is made in a folder beside, which is then renamed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from dcf.build.config_edit import add_function
from dcf.build.go_module import provide_module
from dcf.build.project import CONFIG
from dcf.build.runtimes import list_runtimes, template_folder
from dcf.build.schema import ADDRESS_FORM, is_address, one_of
from dcf.build.toolchains import template_versions
from dcf.domain.names import FUNCTION_RULE, check_function_name
from dcf.errors import ConfigError, InvalidInputError

_FILLED_IN = frozenset({CONFIG, "Dockerfile"})


def init_function(
    name: str, runtime: str, folder: Path, *, config_file: Path | None = None, gateway: str | None = None
) -> list[Path]:
    """Make the function `name`, ready to build.

    Args:
        runtime: a line of `dcf runtime list`.
        folder: where `<name>/` is made; with `config_file` its folder is taken instead.
        config_file: the function file that the function joins, its comments kept; made where it is missing.
            None: the function gets its own, `<name>/config.yaml`.
        gateway: host:port, written as `dcf.gateway`.

    Returns:
        The files written or changed, the function file first.

    Raises:
        ConfigError: the name, the runtime, or something is there already; nothing was changed.
    """
    try:
        check_function_name(name)
    except InvalidInputError:
        raise ConfigError(f"function name {name!r} is not allowed: expected {FUNCTION_RULE}") from None
    if runtime not in list_runtimes():
        raise ConfigError(f"runtime {runtime!r} is not known: expected {one_of(list_runtimes())}")
    if gateway and not is_address(gateway):
        raise ConfigError(f"gateway {gateway!r} is not allowed: expected {ADDRESS_FORM}")
    folder = config_file.parent if config_file else folder
    try:
        return _write(name, runtime, folder, config_file, gateway)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise ConfigError(f"could not make {folder / name}:{where}: {error.strerror or error}") from error


def _write(name: str, runtime: str, folder: Path, config_file: Path | None, gateway: str | None) -> list[Path]:
    target = folder / name
    _refuse_existing(target)
    values = {
        "name": name,
        "source": f"./{name}/src" if config_file else "./src",
        "gateway": gateway or "",
        **template_versions(runtime),
    }
    template = template_folder() / runtime
    config = _fill_in(template / CONFIG, values)
    joined = add_function(config_file, name, config, gateway) if config_file else None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as unfinished:
        made = Path(unfinished) / name  # with the usual permissions, which the temporary folder has not
        written = _copy(template, made, values)
        if config_file:
            (made / CONFIG).unlink()
            written.remove(Path(CONFIG))
        made.rename(target)
    if config_file and joined is not None:
        try:
            _replace(config_file, joined)
        except OSError:
            shutil.rmtree(target)
            raise
    files = [target / path for path in sorted(written, key=lambda path: (len(path.parts), path))]
    if runtime == "go" and (module := provide_module(target, target / "src")):
        files.append(module)
    return [config_file, *files] if config_file else sorted(files, key=lambda path: path != target / CONFIG)


def _refuse_existing(target: Path) -> None:
    if not target.exists() and not target.is_symlink():
        return
    there = sorted(target.iterdir()) if target.is_dir() else [target]
    if there:
        raise ConfigError(f"{there[0]} is there already, and nothing is overwritten: take another name, or remove it")


def _copy(template: Traversable, target: Path, values: dict[str, str]) -> list[Path]:
    target.mkdir()
    written: list[Path] = []
    for entry in template.iterdir():
        if entry.name == "__pycache__":
            continue
        if entry.is_dir():
            written += [Path(entry.name) / path for path in _copy(entry, target / entry.name, values)]
            continue
        text = _fill_in(entry, values) if entry.name in _FILLED_IN else entry.read_text(encoding="utf-8")
        (target / entry.name).write_text(text, encoding="utf-8")
        written.append(Path(entry.name))
    return written


def _fill_in(template: Traversable, values: dict[str, str]) -> str:
    # safe: ${PYTHON_VERSION} in a Dockerfile is Docker's own, and stays.
    return Template(template.read_text(encoding="utf-8")).safe_substitute(values)


def _replace(file: Path, text: str) -> None:
    file = Path(os.path.realpath(file))  # a link stays a link
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as out:
            out.write(text)
        if file.exists():
            shutil.copymode(file, unfinished)
        else:
            os.chmod(unfinished, 0o644)
        os.replace(unfinished, file)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
