"""Put the verbs together, run one, and turn what went wrong into one line.

Exit status: 0 done, 1 failed (`dcf: ...` on stderr), 2 wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from dcf.cli import cluster, config, demo, deploy, describe, doctor, function, invoke, local_run, runtime, top
from dcf.errors import DcfError

app = typer.Typer(
    name="dcf",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Turn a folder with a handler into a service that answers over HTTP and gRPC.

    \b
    Example:
      dcf up --detach
      dcf function init echo --runtime python
      dcf function build -f echo/config.yaml
      dcf function deploy -f echo/config.yaml
      echo Hello | dcf function invoke echo
    """,
)


def _version(wanted: bool) -> None:
    if wanted:
        from dcf import __version__

        typer.echo(f"dcf {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Take the options that stand before every verb; `main` reads --debug wherever it stands."""


def _group(name: str, about: str, *rooms: Any) -> None:
    group = typer.Typer(no_args_is_help=True, help=about, rich_markup_mode=None)
    for room in rooms:
        room.add_to(group)
    app.add_typer(group, name=name)


cluster.add_to(app)
top.add_to(app)
doctor.add_to(app)
demo.add_to(app)
_group(
    "config", "Settings of yours for every command.\n\n\b\nExample:\n  dcf config set gateway 10.0.0.5:32222", config
)
_group("runtime", "Languages that functions are written in.\n\n\b\nExample:\n  dcf runtime list", runtime)
_group(
    "function",
    "Make, build, test, deploy and call functions.\n\n\b\nExample:\n  dcf function init echo --runtime python",
    function,
    local_run,
    deploy,
    describe,
    invoke,
)


def run() -> None:
    """The entry point of `dcf` and `dcf-cli`."""
    sys.exit(main(sys.argv[1:]))


def main(args: Sequence[str]) -> int:
    """Run one command line; the exit status."""
    # gRPC's C core writes its own lines to stderr; what matters of them is in the error that it raises.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    args, debug = _without_debug(args)
    try:
        code = _run_command(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more while it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        return _fail(error)
    return _interrupted() if code == 130 else code


def _run_command(args: Sequence[str]) -> int:
    try:
        result = typer.main.get_command(app).main(args=list(args), prog_name="dcf", standalone_mode=False)
    except typer.Abort:
        return 130
    except SystemExit as error:
        # typer has seen EPIPE before we could, and has quietened stdout.
        return error.code if isinstance(error.code, int) else 1
    return result if isinstance(result, int) else 0


def _without_debug(args: Sequence[str]) -> tuple[list[str], bool]:
    """`--debug` may stand anywhere before `--`: nobody remembers which options belong to which verb."""
    own = list(args)
    rest = own[own.index("--") :] if "--" in own else []
    own = own[: len(own) - len(rest)]
    kept = [arg for arg in own if arg != "--debug"]
    return kept + rest, len(kept) < len(own) or os.environ.get("DCF_DEBUG", "0") not in {"", "0", "false"}


def _interrupted() -> int:
    with contextlib.suppress(OSError):
        sys.stderr.write("\n" if sys.stderr.isatty() else "")
    return 128 + signal.SIGINT


def _fail(error: Exception) -> int:
    """Say what went wrong; 2 where the command line itself is wrong, else 1."""
    if hasattr(error, "format_message"):  # a usage error, of typer's own click or of the click package
        context = getattr(error, "ctx", None)
        path = getattr(context, "command_path", "dcf")
        text = error.format_message().rstrip(".")
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a verb: the text is the whole help
            sys.stderr.write(error.format_message() + "\n")
            return 2
        return _complain(f'{text}; "{path} --help" shows how' if text else f'"{path} --help" shows how', 2)
    if isinstance(error, DcfError):
        return _complain(str(error), 1)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", 1)
    return _complain(f"internal error, a bug of ours: {type(error).__name__}: {error}; --debug shows where", 1)


def _complain(text: str, code: int) -> int:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"dcf: {text}\n")
        sys.stderr.flush()
    return code
