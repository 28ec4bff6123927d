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
            ("Generation", f"{function.generation}{'' if function.settled else ' (being rolled out)'}"),
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
    auto: Annotated[bool, typer.Option("--auto", help="Back to the number of config.yaml.")] = False,
    gateway: GatewayOption = None,
    output: OutputOption = Form.TABLE,
) -> None:
    """Set the replica number by hand, or give it back with --auto.

    \b
    Example:
      dcf function scale echo 3
      dcf function scale echo --auto
    """
    from dcf.client import to_json

    if (replicas is None) is not auto:
        raise typer.BadParameter("give a number of replicas, or --auto")
    with open_gateway(gateway, name=name) as client:
        function = client.scale(name, replicas)
    if output is Form.JSON:
        write_json(to_json(function))
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
