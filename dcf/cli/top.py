"""`dcf top`: the functions and their calls, drawn again every second.

In:   what the gateway says (Seen). Out: lines of text that fit a terminal, or one table, or JSON.
From `Seen` to `draw` everything is pure; `watch` alone touches the terminal, and gives it back in every case.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcf.cli.gateway import GatewayOption, open_gateway
from dcf.cli.output import WIDE, Form, OutputOption, write, write_json, write_table
from dcf.errors import DcfError

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from dcf.client import Client, ClusterInfo, Function, Node

ANSWER_S = 5.0
"""A gateway that works answers in milliseconds; one that took longer is shown as one that does not answer."""
LEAST_INTERVAL_S = 0.2
"""Gateways say once a second what they see: more often is only work for them."""
REDRAW_S = 1.0
"""So often also without news: the head line counts how long the gateway has been silent."""

COLUMNS = ("Function", "Calls/s", "p50", "p99", "In flight", "Waiting", "Replicas", "GPUs", "Reason")
LEFT_OUT = ("p50", "p99", "GPUs", "In flight", "Waiting")
"""What a narrow terminal does without, in this order; how busy and how many is shown to the last."""
DURATION_CELLS = 5
"""`250ms`: as wide from the start, so that columns do not move with the first answer."""
NAME_CELLS = 16
REASON_CELLS = 16
"""Shorter than these, names and reasons say nothing: numbers are left out first."""


class Sort(StrEnum):
    """What `--sort` may say."""

    NAME = "name"
    CALLS = "calls"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the gateway said last."""

    address: str
    info: ClusterInfo
    functions: Sequence[Function]
    nodes: Sequence[Node]
    at: float
    """Unix seconds."""
    trouble: str = ""
    """Why it has said nothing since; "" where it answers."""
    trouble_at: float = 0.0
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen, never wider than it; `style` is rich's word for how it looks."""

    text: str
    style: str = ""


def sorted_functions(functions: Sequence[Function], sort: Sort) -> list[Function]:
    """The busiest first, then by name."""

    def key(function: Function) -> tuple[float, str]:
        load = function.load
        busy = {Sort.NAME: 0.0, Sort.CALLS: load.per_s, Sort.WAITING: float(load.queued)}
        return -busy[sort], function.name

    return sorted(functions, key=key)


def row(function: Function) -> tuple[str, ...]:
    """Its cells, as COLUMNS has them, uncut; nothing in them moves a cursor or changes a colour."""
    load = function.load
    gpus = {(replica.node, gpu) for replica in function.replica_states for gpu in replica.gpus}
    newest = function.scaled
    return (
        clean(function.name),
        _rate(load.per_s),
        _duration(load.p50_s),
        _duration(load.p99_s),
        str(load.in_flight),
        str(load.queued),
        f"{'~' if function.elastic else ''}{function.available_replicas}/{function.replicas}",
        str(len(gpus)),
        clean(function.reason or newest),
    )


def _rate(per_s: float) -> str:
    return "0" if not per_s else f"{per_s:.1f}" if per_s < 1000 else f"{per_s:.0f}"


def _duration(seconds: float) -> str:
    """Three digits, without a blank; `-` where no call ended."""
    from dcf.domain.quantity import format_duration

    return format_duration(float(f"{seconds:.3g}")) if seconds else "-"


def clean(text: str) -> str:
    """`text` in one line, without control characters."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` cells; `...` where something is cut off."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 3)}..." if width > 3 else set_cell_size(text, max(width, 0))


def shorten_name(name: str, width: int) -> str:
    """As `shorten`, but names that begin alike stay apart by their ends."""
    if len(name) <= width or width < 8:
        return shorten(name, width)
    end = (width - 3) // 2
    return f"{name[: width - 3 - end]}...{name[-end:]}"


def head(seen: Seen, width: int, hint: str = "") -> str:
    """Which gateway, what there is, when; what a narrow terminal has no room for is left out."""
    if seen.trouble:
        named = seen.trouble if seen.address in seen.trouble else f"{seen.address}: {seen.trouble}"
        return shorten(clean(f"since {_clock(seen.trouble_at)} {named}"), width)
    number = len(seen.functions)
    # The number is the order in which parts are left out: the highest first.
    parts = [
        (0, seen.address),
        (5, seen.info.backend),
        (2, f"{number} function{'' if number == 1 else 's'}"),
        *_nodes(seen.nodes),
        (1, _clock(seen.at)),
        (7, hint),
    ]
    parts = [(rank, clean(part)) for rank, part in parts if part]
    while len(parts) > 1 and sum(len(part) + 2 for _, part in parts) - 2 > width:
        parts.remove(max(parts))
    return shorten("  ".join(part for _, part in parts), width)


def _nodes(nodes: Sequence[Node]) -> Iterator[tuple[int, str]]:
    """What was given to replicas, of what the ready ones have."""
    ready = [node for node in nodes if node.ready]
    if len(nodes) > 1 or len(ready) < len(nodes):
        lost = f", {len(nodes) - len(ready)} not ready" if len(ready) < len(nodes) else ""
        yield 3 if lost else 6, f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}{lost}"
    if cpus := sum(node.cpus for node in ready):
        yield 5, f"{sum(node.cpus_used for node in ready):g}/{cpus:g} CPUs"
    if memory := sum(node.memory_bytes for node in ready):
        used = sum(node.memory_used_bytes for node in ready)
        yield 6, f"{used / 1024**3:.1f}/{memory / 1024**3:.1f} GiB"
    if gpus := sum(len(node.gpus) for node in ready):
        yield 4, f"{sum(len(node.gpus_used) for node in ready)}/{gpus} GPUs"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def fit(rows: Sequence[Sequence[str]], width: int, *, gpus: bool) -> list[str]:
    """The titles and `rows` as lines of at most `width` cells.

    Args:
        rows: of all functions, as `row` makes them, so that scrolled ones do not move the columns.
        gpus: whether there are any; without them they need no column.
    """
    cells = [max(map(len, column)) for column in zip(COLUMNS[:-1], *(one[:-1] for one in rows), strict=True)]
    for column in ("p50", "p99"):
        cells[COLUMNS.index(column)] = max(cells[COLUMNS.index(column)], DURATION_CELLS)
    always = set() if gpus else {"GPUs"}
    needed = min(cells[0], NAME_CELLS) + REASON_CELLS
    for gap, number in ((2, 0), *((1, number) for number in range(len(LEFT_OUT) + 1))):
        without = always | set(LEFT_OUT[:number])
        kept = [at for at in range(1, len(COLUMNS) - 1) if COLUMNS[at] not in without]
        rest = width - sum(cells[at] + gap for at in kept)
        if rest >= needed + gap:
            break
    name = min(cells[0], max(NAME_CELLS, rest // 3))
    reason = rest - gap - name
    if reason < REASON_CELLS // 2:  # a terminal of a few columns: the name and the numbers, as far as it goes
        name, reason = max(8, min(cells[0], rest)), 0
    lines = []
    for one in (COLUMNS, *rows):
        numbers = (one[at].rjust(cells[at]) for at in kept)
        parts = [shorten_name(one[0], name).ljust(name), *numbers, shorten(one[-1], reason)]
        lines.append(shorten((" " * gap).join(parts).rstrip(), width))
    return lines


def draw(seen: Seen, sort: Sort, *, width: int, height: int) -> list[Line]:
    """The screen: at most `height` lines of at most `width` cells."""
    functions = sorted_functions(seen.functions, sort)
    gpus = any(node.gpus for node in seen.nodes)
    gpus = gpus or any(replica.gpus for function in functions for replica in function.replica_states)
    titles, *rows = fit([row(function) for function in functions], width, gpus=gpus)
    lines = [
        Line(head(seen, width, "q: quit"), "bold red" if seen.trouble else "bold"),
        Line(""),
        Line(titles, "underline"),
    ]
    room = max(0, height - len(lines))
    shown = len(rows) if len(rows) <= room else max(0, room - 1)
    lines += [Line(text, _style(seen, function)) for text, function in zip(rows[:shown], functions, strict=False)]
    if not rows:
        lines.append(Line(shorten("no function is deployed yet", width), "dim"))
    elif shown < len(rows):
        lines.append(Line(shorten(f"... and {len(rows) - shown} more", width), "dim"))
    return lines[:height]


def _style(seen: Seen, function: Function) -> str:
    if seen.trouble:
        return "dim"
    return "red" if function.failed else "yellow" if function.status != "Ready" else ""


def in_trouble(seen: Seen, trouble: str, *, now_s: float) -> Seen:
    """What is known, now that the gateway does not answer; it began with the first time."""
    return dataclasses.replace(seen, trouble=trouble, trouble_at=seen.trouble_at if seen.trouble else now_s)


def to_json(seen: Seen, sort: Sort) -> dict[str, Any]:
    """The facts themselves, for scripts."""
    from dcf.client import to_json as facts_to_json

    return {
        "address": seen.address,
        "backend": seen.info.backend,
        "cluster": seen.info.cluster,
        "version": seen.info.version,
        "at": seen.at,
        "functions": facts_to_json(sorted_functions(seen.functions, sort)),
        "nodes": facts_to_json(seen.nodes),
    }


def ask(client: Client) -> Seen:
    """What the gateway says now. Raises DcfError where it does not."""
    info, functions, nodes = client.info(timeout_s=ANSWER_S), client.list(), client.nodes(timeout_s=ANSWER_S)
    return Seen(address=client.address, info=info, functions=functions, nodes=nodes, at=time.time())


class _Asker:
    """Asks again and again, one question at a time, while keys are read. Touched by the main thread alone."""

    def __init__(self, client: Client, pool: Executor, woken: _Woken, first: Seen, interval_s: float) -> None:
        self.seen = first
        self._client = client
        self._pool = pool
        self._woken = woken
        self._interval_s = interval_s
        self._asked_at = time.monotonic()
        self._answer: Future[Seen] | None = None

    def turn(self) -> float:
        """Take the answer that has come, ask when it is time; seconds until there is more to do."""
        from dcf.client.failures import HOW_TO_REACH

        if self._answer is not None and self._answer.done():
            answer, self._answer = self._answer, None
            try:
                self.seen = answer.result()
            except DcfError as error:
                self._in_trouble(str(error).removesuffix(f": {HOW_TO_REACH}"))
        now = time.monotonic()
        if self._answer is not None:
            if now - self._asked_at > ANSWER_S:
                self._in_trouble(f"no answer within {ANSWER_S:g} s")
            return REDRAW_S
        if now >= self._asked_at + self._interval_s:
            self._asked_at = now
            self._answer = self._pool.submit(ask, self._client)
            self._answer.add_done_callback(lambda _: self._woken.wake())
            return REDRAW_S
        return min(REDRAW_S, self._asked_at + self._interval_s - now)

    def _in_trouble(self, trouble: str) -> None:
        self.seen = in_trouble(self.seen, trouble, now_s=time.time())


class _Woken:
    """A pipe that is read beside the keys: signals and answers write a byte each."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH, signal.SIGTSTP)

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        for fd in (self.fd, self._write_fd):
            os.set_blocking(fd, False)
        # Python writes the number of every signal that has a handler: no handler of ours interrupts a drawing.
        self._fd_before = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._before = [(number, signal.signal(number, _on_signal)) for number in self.NUMBERS]

    def wake(self) -> None:
        """Write a byte that is no signal's."""
        with suppress(BlockingIOError):
            os.write(self._write_fd, b"\0")

    def read(self) -> bytes:
        """The numbers of the signals since the last time, and zeros."""
        return os.read(self.fd, 4096)

    def close(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self.fd)
        os.close(self._write_fd)


def _on_signal(number: int, frame: object) -> None:
    """The byte in the pipe says it."""


@contextmanager
def _keys() -> Iterator[int | None]:
    """The descriptor that single keys come from, without their echo; None where stdin is no terminal."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        yield fd
    finally:
        with suppress(termios.error):  # the terminal was closed: nothing is left to restore
            termios.tcsetattr(fd, termios.TCSANOW, before)


def watch(client: Client, first: Seen, sort: Sort, interval_s: float) -> int:
    """Show it until q, Ctrl-C or SIGTERM; the exit status. The client is closed then, also in the midst of a call."""
    from concurrent.futures import ThreadPoolExecutor

    # From the inside out: the call under way is broken off, its thread ends, then nobody writes to the pipe any more.
    with closing(_Woken()) as woken, ThreadPoolExecutor(max_workers=1) as pool, closing(client):
        asker = _Asker(client, pool, woken, first, interval_s)
        while (ended := _show(asker, woken, sort)) == signal.SIGTSTP:
            # The terminal is as it was: now stop, as Ctrl-Z stops any other program.
            handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, handler)
    return 128 + ended if ended == signal.SIGTERM else 0


def _show(asker: _Asker, woken: _Woken, sort: Sort) -> int:
    """Draw until somebody ends it: the signal's number, 0 for a key. The terminal is as before then."""
    import select

    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(file=sys.stdout, force_terminal=True, force_interactive=True, highlight=False)
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with _keys() as keys, live:
        while True:
            wait_s = asker.turn()
            size = os.get_terminal_size(sys.stdout.fileno())
            console.size = (size.columns or 80, size.lines or 24)  # a terminal that says 0 does not know it
            lines = draw(asker.seen, sort, width=console.width, height=console.height)
            # Text, not str: a `[` in a reason is no markup.
            texts = [Text(line.text, style=line.style, no_wrap=True, overflow="crop") for line in lines]
            live.update(Group(*texts), refresh=True)

            ready, _, _ = select.select([woken.fd, *([] if keys is None else [keys])], [], [], wait_s)
            if woken.fd in ready:
                for number in woken.read():
                    if number in {signal.SIGINT, signal.SIGTERM, signal.SIGTSTP}:
                        return number
            if keys in ready:
                typed = os.read(keys, 1024)
                if not typed or b"q" in typed.lower():
                    return 0


def top(
    interval: Annotated[
        str, typer.Option("--interval", metavar="TIME", help="How often to ask again, such as 500ms; 200ms or more.")
    ] = "1s",
    sort: Annotated[Sort, typer.Option("--sort", help="Calls a second, calls that wait, or the name.")] = Sort.CALLS,
    once: Annotated[bool, typer.Option("--once", help="One table, and end; so too where stdout is a pipe.")] = False,
    gateway: GatewayOption = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Watch the functions: calls a second, how long they take, who waits, what runs. q or Ctrl-C ends it.

    \b
    Example:
      dcf top
      dcf top --sort waiting --interval 500ms
      dcf top --once
    """
    interval_s = read_interval(interval)
    with open_gateway(gateway) as client:
        seen = ask(client)
        if output is Form.JSON:
            write_json(to_json(seen, sort))
        elif once or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in {"", "dumb", "unknown"}:
            write(head(seen, WIDE) + "\n")
            write_table(COLUMNS, [row(function) for function in sorted_functions(seen.functions, sort)])
        elif status := watch(client, seen, sort, interval_s):
            raise typer.Exit(status)


def read_interval(text: str) -> float:
    """Seconds. Raises BadParameter for less than a gateway has news."""
    from dcf.domain.quantity import DURATION_FORM, parse_duration

    try:
        seconds = parse_duration(text)
    except DcfError:
        raise typer.BadParameter(f"--interval {text}: expected {DURATION_FORM}") from None
    if seconds < LEAST_INTERVAL_S:
        raise typer.BadParameter(f"--interval {text}: expected {LEAST_INTERVAL_S * 1000:g}ms or more")
    return seconds


def add_to(app: typer.Typer) -> None:
    """The verb of this file."""
    app.command("top")(top)
