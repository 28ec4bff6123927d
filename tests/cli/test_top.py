"""What `dcf top` makes of what the gateway says, and what it answers without one."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
import typer
from rich.cells import cell_len

from dcf.cli.top import COLUMNS, Seen, Sort, clean, draw, head, in_trouble, read_interval, row, shorten, to_json
from dcf.client import ClusterInfo, Function, Load, Node, ReplicaFacts
from tests.cli.conftest import Shell, free_port

WIDTHS = [60, 80, 120]
ADDRESS = "127.0.0.1:32222"
AT = 1_700_000_000.0
BUSY = Load(in_flight=7, queued=12, oldest_wait_s=3.0, per_s=123.4, p50_s=0.0025, p99_s=0.25)


def function(
    name: str = "echo", *, load: Load = BUSY, reason: str = "", status: str = "Ready", elastic: bool = False,
    failed: bool = False, gpus: tuple[str, ...] = (),
) -> Function:  # fmt: skip
    replicas = (ReplicaFacts(name="r1", state="ready", node="n1", gpus=gpus),)
    return Function(
        name=name, image="i", replicas=3, available_replicas=2, status=status, load=load, reason=reason,
        elastic=elastic, failed=failed, replica_states=replicas,
    )  # fmt: skip


def seen(*functions: Function, nodes: tuple[Node, ...] = ()) -> Seen:
    info = ClusterInfo(version="1", backend="process")
    return Seen(address=ADDRESS, info=info, functions=functions, nodes=nodes, at=AT)


def screen(facts: Seen, *, width: int = 80, height: int = 24, sort: Sort = Sort.CALLS) -> list[str]:
    """Its lines, none wider than the terminal, no more than it has."""
    lines = draw(facts, sort, width=width, height=height)
    assert len(lines) <= height
    assert [line for line in lines if cell_len(line.text) > width] == []
    return [line.text for line in lines]


def names(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines[3:]]


@pytest.mark.parametrize("width", WIDTHS)
def test_busy_function_is_one_row_that_fits(width: int) -> None:
    lines = screen(seen(function(elastic=True, reason="burst: 19 calls")), width=width)

    assert len(lines) == 4
    assert lines[2].split()[0] == "Function"
    assert lines[3].startswith("echo ")
    for shown in ("123.4", "12", "~2/3", "burst: 19 calls"):
        assert shown in lines[3]


@pytest.mark.parametrize("width", WIDTHS)
def test_cells_stand_under_their_titles(width: int) -> None:
    busy, idle = function(reason="all of it"), function("idle", load=Load())

    _, _, titles, first, second = screen(seen(busy, idle), width=width)

    for title in ("Calls/s", "Replicas"):
        end = titles.index(title) + len(title)
        assert first[end - 1] != " "
        assert first[end] == " "
        assert second[end - 1] != " "
    assert first.index("all of it") == titles.index("Reason")


def test_wide_terminal_shows_every_column_and_a_narrow_one_how_busy_and_how_many() -> None:
    facts = seen(function(gpus=("0",)))

    assert screen(facts, width=120)[2].replace("In flight", "In-flight").split() == [
        title.replace(" ", "-") for title in COLUMNS
    ]
    assert screen(facts, width=60)[2].split() == [
        "Function",
        "Calls/s",
        "In",
        "flight",
        "Waiting",
        "Replicas",
        "Reason",
    ]
    assert screen(facts, width=30)[2].split() == ["Function", "Calls/s", "Replicas"]


def test_gpus_have_a_column_where_there_are_any() -> None:
    machine = Node(name="n1", ready=True, gpus=("0", "1"))

    assert "GPUs" not in screen(seen(function()), width=120)[2]
    assert "GPUs" in screen(seen(function(), nodes=(machine,)), width=120)[2]
    assert "GPUs" in screen(seen(function(gpus=("0",))), width=120)[2]


def test_a_gpu_that_two_replicas_share_is_held_once() -> None:
    states = tuple(
        ReplicaFacts(name=name, state="ready", node=node, gpus=("0",))
        for name, node in (("a", "n1"), ("b", "n1"), ("c", "n2"))
    )

    assert row(Function(name="echo", image="i", replica_states=states))[COLUMNS.index("GPUs")] == "2"


def test_function_without_calls_has_no_durations() -> None:
    assert row(function(load=Load()))[1:6] == ("0", "-", "-", "0", "0")


def test_reason_is_the_functions_own_before_that_of_its_number() -> None:
    decided = Function(name="echo", image="i", scaled="up from 1 to 2")
    both = Function(name="echo", image="i", scaled="up from 1 to 2", reason="no GPU")

    assert row(decided)[-1] == "up from 1 to 2"
    assert row(both)[-1] == "no GPU"


@pytest.mark.parametrize("width", WIDTHS)
def test_no_function_is_said(width: int) -> None:
    assert screen(seen(), width=width)[-1] == "no function is deployed yet"


@pytest.mark.parametrize("width", WIDTHS)
def test_two_hundred_functions_fill_the_screen_and_the_rest_is_counted(width: int) -> None:
    many = [function(f"f{number:03}", load=Load(per_s=float(number))) for number in range(200)]

    lines = screen(seen(*many), width=width, height=24)

    assert len(lines) == 24
    assert lines[-1] == "... and 180 more"
    assert names(lines[:-1]) == [f"f{number:03}" for number in range(199, 179, -1)]


def test_as_many_functions_as_lines_need_no_count() -> None:
    functions = [function(f"f{number}") for number in range(5)]

    assert names(screen(seen(*functions), height=8)) == ["f0", "f1", "f2", "f3", "f4"]
    assert screen(seen(*functions), height=7)[3:][-1] == "... and 2 more"


@pytest.mark.parametrize("width", [1, 2, 5, 10, 20, 30, *WIDTHS, 400])
@pytest.mark.parametrize("height", [1, 2, 3, 4, 30])
def test_no_terminal_is_too_small(width: int, height: int) -> None:
    functions = [function("x" * 63, reason="y" * 2000, gpus=("0",)), function("b", reason="漢字" * 300)]

    for count in (0, 1, 2):
        screen(seen(*functions[:count], nodes=(Node(name="n", ready=False, cpus=4.0),)), width=width, height=height)


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_that_begin_alike_stay_apart_beside_long_reasons(width: int) -> None:
    long = [function(f"a-model-with-a-very-long-name-{end}", reason="because " * 200) for end in ("70b", "8b")]

    lines = screen(seen(*long), width=width)

    assert len(set(names(lines))) == 2
    assert all(name.endswith("b") for name in names(lines))
    assert all(line.endswith("...") and "because" in line for line in lines[3:])
    assert all("2/3" in line for line in lines[3:])


def test_nothing_in_a_reason_is_markup_or_moves_the_cursor() -> None:
    from rich.console import Console, Group
    from rich.text import Text

    lines = draw(seen(function(reason="[red]a[/red] \x1b[31mb\x07\r\n\u202ec")), Sort.CALLS, width=120, height=24)
    out = io.StringIO()
    Console(file=out, width=120, force_terminal=False).print(Group(*(Text(line.text) for line in lines)))

    assert "[red]a[/red] [31mb c" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_clean_and_shorten() -> None:
    assert clean(" a\tb\n\x00c ") == "a b c"
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abc..."
    assert shorten("漢字漢字", 6) == "漢 ..."
    assert shorten("abcdef", 2) == "ab"
    assert shorten("abcdef", -1) == ""


@pytest.mark.parametrize(
    ("sort", "expected"),
    [(Sort.CALLS, ["b", "a", "c"]), (Sort.NAME, ["a", "b", "c"]), (Sort.WAITING, ["c", "a", "b"])],
)
def test_sorted_by_what_was_asked_for_then_by_name(sort: Sort, expected: list[str]) -> None:
    facts = seen(
        function("c", load=Load(per_s=1.0, queued=2)),
        function("a", load=Load(per_s=1.0)),
        function("b", load=Load(per_s=5.0)),
    )

    assert names(screen(facts, sort=sort)) == expected
    assert [one["name"] for one in to_json(facts, sort)["functions"]] == expected


def test_head_tells_gateway_backend_functions_nodes_and_time() -> None:
    gib = 1024**3
    nodes = (
        Node(name="n1", ready=True, cpus=8, cpus_used=1.5, memory_bytes=32 * gib, memory_used_bytes=gib, gpus=("0",)),
        Node(name="n2", ready=True, cpus=8, cpus_used=1, memory_bytes=32 * gib, gpus=("0",), gpus_used=("0",)),
        Node(name="n3", ready=False, cpus=8, memory_bytes=32 * gib, gpus=("0",)),
    )
    facts = seen(function(), nodes=nodes)

    assert head(facts, 200, "q: quit").split("  ")[:-2] == [
        ADDRESS, "process", "1 function", "3 nodes, 1 not ready", "2.5/16 CPUs", "1.0/64.0 GiB", "1/2 GPUs",
    ]  # fmt: skip
    assert head(facts, 200, "q: quit").endswith("  q: quit")
    assert "3 nodes, 1 not ready" in head(facts, 60)
    assert head(facts, 60).startswith(ADDRESS)
    assert head(facts, 10) == "127.0.0..."


@pytest.mark.parametrize("width", WIDTHS)
def test_silent_gateway_is_named_in_the_head_and_what_was_known_stays(width: int) -> None:
    first = in_trouble(seen(function()), f"no gateway answers at {ADDRESS}", now_s=AT + 60)
    later = in_trouble(first, "no answer within 5 s", now_s=AT + 120)

    lines = draw(first, Sort.CALLS, width=width, height=24)

    assert f"no gateway answers at {ADDRESS}" in lines[0].text
    assert lines[0].text.startswith("since ")
    assert lines[3].text.startswith("echo ")
    assert lines[3].style == "dim"
    assert later.trouble_at == first.trouble_at
    assert ADDRESS in head(later, width)


def test_function_that_is_not_ready_and_one_that_failed_look_different() -> None:
    facts = seen(function("a"), function("b", status="Not Ready"), function("c", status="Not Ready", failed=True))

    assert [line.style for line in draw(facts, Sort.NAME, width=80, height=24)[3:]] == ["", "yellow", "red"]


@pytest.mark.parametrize("text", ["100ms", "0", "0.19", "soon", "-1s"])
def test_interval_that_gateways_cannot_answer_is_wrong_usage(shell: Shell, text: str) -> None:
    with pytest.raises(typer.BadParameter, match="interval"):
        read_interval(text)


def test_interval_is_a_duration() -> None:
    assert read_interval("200ms") == 0.2
    assert read_interval("2") == 2.0


def test_wrong_interval_is_one_line_and_status_2(shell: Shell) -> None:
    error = shell.fails("top", "--interval", "1ms", code=2)

    assert "--interval 1ms" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("more", [(), ("--once",), ("--output", "json")], ids=str)
def test_no_gateway_at_the_start_is_an_error(shell: Shell, more: tuple[str, ...]) -> None:
    address = f"127.0.0.1:{free_port()}"

    error = shell.fails("top", "--gateway", address, *more)

    assert address in error
    assert "dcf up" in error


def test_rich_and_the_client_are_imported_by_the_verb_alone() -> None:
    code = "import sys, dcf.cli.top; print([m for m in ('grpc', 'rich.live', 'rich.table') if m in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[]"


def test_pipe_gets_one_table_and_json_the_same_facts(cluster: Shell) -> None:
    address = cluster.more["ADDRESS"]

    table = cluster.ok("top", "--gateway", address)
    facts = json.loads(cluster.ok("top", "--gateway", address, "--output", "json"))

    head_line, empty, titles = table.splitlines()
    assert head_line.startswith(f"{address}  process")
    assert "0 functions" in head_line
    assert empty == ""
    assert titles.split() == " ".join(COLUMNS).split()
    assert "\x1b" not in table
    assert facts["address"] == address
    assert facts["functions"] == []
    assert set(facts) == {"address", "backend", "cluster", "version", "at", "functions", "nodes"}
