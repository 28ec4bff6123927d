"""`dcf function` list, info, log, scale, delete: what runs, and what it says."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcf.cli.gateway import GatewayOption, open_gateway
from dcf.cli.invoke import interruptible
from dcf.cli.output import Form, OutputOption, write, write_facts, write_json, write_table

if TYPE_CHECKING:
    from dcf.client import Function, LogLine

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
SHOWN_DECISIONS = 8
COLUMNS = ("Function", "Image", "Maintainer", "Invocations", "Replicas", "Status", "Description")


def list_functions(gateway: GatewayOption = None, output: OutputOption = Form.TABLE) -> None:
    """List the deployed functions, with their counts.

    \b
    Example:
      dcf function list
      dcf function list --output json
    """
    from dcf.client import to_json

    with open_gateway(gateway) as client:
        functions = sorted(client.list(), key=lambda function: function.name)
    if output is Form.JSON:
        write_json(to_json(functions))
        return
    write_table(COLUMNS, [_row(function) for function in functions])


def _row(function: Function) -> tuple[str, ...]:
    return (
        function.name,
        function.image,
        function.maintainer,
        str(function.invocation_count),
        show_replicas(function),
        function.status,
        function.description,
    )


def show_replicas(function: Function) -> str:
    """`ready/desired`, as people know it from kubectl."""
    return f"{function.available_replicas}/{function.replicas}"


def info(name: NameArgument, gateway: GatewayOption = None, output: OutputOption = Form.TABLE) -> None:
    """Show one function: what was asked for, what runs, and why it is not ready.

    \b
    Example:
      dcf function info echo
    """
    from dcf.client import to_json

    with open_gateway(gateway, name=name) as client:
        function = client.describe(name)
    if output is Form.JSON:
        write_json(to_json(function))
        return
    write_facts(
        [
            ("Function", function.name),
            ("Image", function.image),
            ("Runtime", function.runtime),
            ("Maintainer", function.maintainer),
            ("Description", function.description),
            ("Invocations", str(function.invocation_count)),
            ("Queue wait", show_queue_wait(function)),
            ("Status", function.status),
            ("Reason", function.reason),
            ("Replicas", show_replicas(function)),
            ("Scaling", show_scaling(function)),
            ("Now", show_load(function)),
            ("Cold start", show_cold_start(function)),
            ("Generation", f"{function.generation}{' (being rolled out)' if is_rolled_out(function) else ''}"),
            *(("Label", f"{key}={value}") for key, value in sorted(function.labels.items())),
            *_spec_facts(function.spec or {}),
            ("Batch", show_batch(function)),
        ]
    )
    if function.replica_states:
        write("")
        write_table(
            ("Replica", "State", "Generation", "In flight", "Memory", "Age", "Node", "GPU"),
            [
                (
                    replica.name,
                    replica.state,
                    str(replica.generation),
                    str(replica.in_flight),
                    f"{replica.memory_bytes / 1024**2:.0f} MiB" if replica.memory_bytes else "",
                    _age(replica.started_at),
                    replica.node,
                    ", ".join(replica.gpus),
                )
                for replica in function.replica_states
            ],
        )
    if function.decisions:
        write("")
        write_table(
            ("At", "Replicas", "Wanted", "Ready", "Waiting", "Why"),
            [
                (
                    time.strftime("%H:%M:%S", time.localtime(one.at)),
                    str(one.replicas) if one.replicas == one.before else f"{one.before} -> {one.replicas}",
                    str(one.wanted),
                    str(one.ready),
                    str(one.queued),
                    one.reason,
                )
                for one in function.decisions[-SHOWN_DECISIONS:]
            ],
        )
    if function.log_tail and not (function.settled and function.available_replicas):
        write("")
        write("Last lines of what failed:")
        for line in function.log_tail:
            write(f"  {line}")


def _spec_facts(spec: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        (title, str(spec.get(key, "")))
        for title, key in (
            ("Concurrency", "concurrency"),
            ("Workers", "workers"),
            ("Timeout", "timeout"),
            ("Start timeout", "startTimeout"),
            ("Queue", "queue"),
            ("Max payload", "maxPayload"),
        )
    ]
    facts += [("Constraint", text) for text in spec.get("constraints") or []]
    facts += [("Limit", f"{key} {value}") for key, value in sorted((spec.get("limits") or {}).items()) if value]
    # Names only: a value may be a secret, and this output is pasted into issues.
    facts += [("Environment", ", ".join(sorted(spec.get("envVars") or {})))]
    return facts


def is_rolled_out(function: Function) -> bool:
    """Whether replicas of another generation are there, or none of this one yet."""
    return not function.settled and any(one.generation != function.generation for one in function.replica_states)


def show_range(function: Function) -> str:
    """`1 to 8 replicas`, as the spec has it."""
    scaling = (function.spec or {}).get("scaling") or {}
    return f"{scaling.get('min', 0)} to {scaling.get('max', '?')} replicas" if scaling else "elastic"


def show_scaling(function: Function) -> str:
    """What its number follows; "" where it is fixed."""
    scaling = (function.spec or {}).get("scaling")
    if not scaling:
        return ""
    unit = "calls/s" if scaling.get("metric") == "rps" else "calls in flight or waiting"
    utilization = scaling.get("utilization", 0.7)
    each = f"{scaling['target'] * utilization:g}" if scaling.get("target") else f"{utilization:g} x its concurrency"
    text = f"{show_range(function)}, one for every {each} {unit}"
    if not scaling.get("min"):
        text += f"; asleep after {scaling.get('idle')} without a call"
    return text if function.elastic else f"{text} (pinned by hand now)"


def show_load(function: Function) -> str:
    """What gateways see of it now; "" where there are no calls."""
    load = function.load
    if not (load.in_flight or load.queued or load.per_s):
        return ""
    text = f"{load.per_s:g} calls/s, {load.in_flight} in flight, {load.queued} waiting"
    if load.queued:
        text += f" (the longest for {_duration(load.oldest_wait_s)})"
    if load.p99_s:
        text += f"; half within {_duration(load.p50_s)}, 99 % within {_duration(load.p99_s)}"
    return text


def show_cold_start(function: Function) -> str:
    """Of its last replica; "" where none has started since somebody watched."""
    took = function.cold_start
    if not took.loaded_s:
        return ""
    text = (
        f"container after {_duration(took.container_s)}, watcher {_duration(took.watcher_s)}, "
        f"handler loaded {_duration(took.loaded_s)}"
    )
    return f"{text}; first held call answered after {_duration(took.first_answer_s)}" if took.first_answer_s else text


def show_queue_wait(function: Function) -> str:
    """How long its calls waited before the handler; "" where there were none."""
    calls = function.calls
    if not function.invocation_count or not calls.queue_wait_p99_s:
        return ""
    return f"mean {_duration(calls.queue_wait_mean_s)}, 99 % within {_duration(calls.queue_wait_p99_s)}"


def show_batch(function: Function) -> str:
    """What its batches may be, and what they were; "" where it takes one call at a time."""
    from dcf.domain.quantity import parse_duration

    spec = (function.spec or {}).get("batch")
    if not spec:
        return ""
    wait_s = parse_duration(spec.get("maxWait") or 0)
    text = f"at most {spec.get('maxSize')}" + (f", waits {_duration(wait_s)}" if wait_s else "")
    calls = function.calls
    if not calls.batches:
        return text
    mean = round(calls.batch_size_mean, 1)
    batches = f"{calls.batches} batch{'' if calls.batches == 1 else 'es'}"
    return f"{text}; {mean:g} call{'' if mean == 1 else 's'} a batch on average, {batches}"


def _duration(seconds: float) -> str:
    """For people: three digits."""
    rounded = float(f"{seconds:.3g}")
    return f"{rounded * 1000:g} ms" if rounded < 1 else f"{rounded:g} s"


def _age(started_at: float) -> str:
    if not started_at:
        return ""
    seconds = max(0, int(time.time() - started_at))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def log(
    name: NameArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only lines of the last while, such as 10m.")
    ] = None,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, metavar="N", help="Only the last N lines.")] = None,
    gateway: GatewayOption = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Show what a function printed, all replicas, oldest first.

    \b
    Example:
      dcf function log echo --since 10m --tail 20 --follow
    """
    import json

    from dcf.client import to_json
    from dcf.domain.quantity import parse_duration

    since_at = time.time() - parse_duration(since) if since else 0.0
    with open_gateway(gateway, name=name) as client:
        found = client.log(name, since_at=since_at, tail=tail, follow=follow)
        with closing(interruptible(client, found)) as lines:
            for line in lines:
                # One object a line: a log has no end that a list could be closed at.
                write(json.dumps(to_json(line), ensure_ascii=False) if output is Form.JSON else show_line(line))


def show_line(line: LogLine) -> str:
    """Time of day, replica, stream where it is not stdout, text."""
    at = time.strftime("%H:%M:%S", time.localtime(line.at))
    stream = "" if line.stream == "stdout" else f" {line.stream}"
    return f"{at} {line.replica}{stream} | {line.text}"


def scale(
    name: NameArgument,
    replicas: Annotated[int | None, typer.Argument(metavar="N", min=0, help="Replicas, pinned by hand.")] = None,
    auto: Annotated[bool, typer.Option("--auto", help="Release a number that was pinned by hand.")] = False,
    lowest: Annotated[int | None, typer.Option("--min", min=0, metavar="N", help="Elastic: never fewer.")] = None,
    highest: Annotated[int | None, typer.Option("--max", min=1, metavar="N", help="Elastic: never more.")] = None,
    gateway: GatewayOption = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Set the replica number by hand, give it back with --auto, or change the range that it follows the calls in.

    \b
    Example:
      dcf function scale echo 3
      dcf function scale echo --auto
      dcf function scale echo --min 0 --max 8
    """
    from dcf.client import to_json

    ranged = lowest is not None or highest is not None
    if (replicas is not None) + auto + ranged != 1:
        raise typer.BadParameter("give a number of replicas, --auto, or --min, --max or both")
    with open_gateway(gateway, name=name) as client:
        if ranged:
            client.scale_range(name, min=lowest, max=highest)
            function = client.describe(name)
        else:
            client.scale(name, replicas)
            function = client.describe(name)
    if output is Form.JSON:
        write_json(to_json(function))
        return
    if function.elastic:
        write(f"{name} follows its calls: {show_range(function)}")
        return
    how = "the number of its spec" if auto else "pinned by hand"
    write(f"{name} shall have {function.replicas} replica{'' if function.replicas == 1 else 's'} ({how})")


def delete(name: NameArgument, gateway: GatewayOption = None) -> None:
    """Remove a function, its replicas and its counts; its folder and its builds stay.

    \b
    Example:
      dcf function delete echo
    """
    with open_gateway(gateway, name=name) as client:
        client.delete(name)
    write(f"{name} is deleted")


def add_to(group: typer.Typer) -> None:
    """The verbs of this file."""
    group.command("list")(list_functions)
    group.command("info")(info)
    group.command(
        "describe",
        help="The replicas and limits of a function, and its reason.\n\n\b\nExample:\n  dcf function describe echo",
    )(info)
    group.command("log")(log)
    group.command("scale")(scale)
    group.command("delete")(delete)
