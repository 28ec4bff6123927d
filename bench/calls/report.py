"""Tell what came of it: tables, and the page of the results.

In:   a Result. Out: Markdown, which reads well on a terminal.
Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calls.lines import LINES, SLEEP_MS, Limit, Verdict, judge, median, of_workload
from calls.loads import LONGER
from calls.machine import Machine
from calls.measure import Failure, Run
from calls.peers import PEERS
from calls.picture import PICTURE, echo_sides
from calls.plan import WORKLOADS, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run of the benchmark."""

    plan: Plan
    runs: Sequence[Run]
    failures: Sequence[Failure]
    missing: dict[str, str]
    """Peers that could not be installed, and why."""
    peer_versions: dict[str, dict[str, str]]
    generators: dict[str, str]
    machine: Machine
    took_s: float


def verdicts(result: Result) -> list[Verdict]:
    """Of all lines."""
    return [judge(line, result.runs) for line in LINES]


def tables(result: Result) -> str:
    """All figures, a table for each workload."""
    parts = []
    for workload, says in WORKLOADS.items():
        if any(run.block.partition("/")[0] == workload for run in result.runs):
            parts.append(f"**{workload}**: {says}\n\n{workload_table(result, workload)}")
    return "\n\n".join(parts)


def lines_table(result: Result) -> str:
    """What was promised and what is so, as far as it was measured."""
    rows = ["| line | measured | must | | aim | |", "|---|---:|---:|---|---:|---|"]
    for verdict in verdicts(result):
        limits = verdict.line.limits
        if verdict.must_met is None:
            continue
        seen = [
            _amount(value, limit.unit) for value, limit in zip(verdict.seen, limits, strict=True) if value is not None
        ]
        cells = (
            verdict.line.says, " or ".join(seen),
            " or ".join(_bound(limit, limit.must) for limit in limits), _yes(verdict.must_met),
            " or ".join(_bound(limit, limit.aim) for limit in limits if limit.aim is not None), _yes(verdict.aim_met),
        )  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main_table(result: Result) -> str:
    """The echo, a row for each side; "" where it was not measured."""
    columns = (
        ("req/s at 1", "100 B x 1", "per_s", "{:.0f}"), ("8", "100 B x 8", "per_s", "{:.0f}"),
        ("64", "100 B x 64", "per_s", "{:.0f}"), ("256", "100 B x 256", "per_s", "{:.0f}"),
        ("p50 at 1, ms", "100 B x 1", "p50_ms", "{:.2f}"), ("p99 at 64, ms", "100 B x 64", "p99_ms", "{:.1f}"),
        ("CPU us/req at 64", "100 B x 64", "cpu_us", "{:.0f}"), ("memory MiB", "100 B x 64", "memory_mib", "{:.0f}"),
        ("MB/s, 1 MiB x 8", "1 MiB x 8", "mb_per_s", "{:.0f}"),
        ("16 MiB x 8", "16 MiB x 8", "mb_per_s", "{:.0f}"),
    )  # fmt: skip
    rows = ["| HTTP echo | " + " | ".join(head for head, *_ in columns) + " |", "|---|" + "---:|" * len(columns)]
    for side in echo_sides(result.runs):
        found = [(of_workload(result.runs, "echo", side, load), field, form) for _, load, field, form in columns]
        cells = [form.format(median(runs, field)) if runs else "" for runs, field, form in found]
        rows.append(f"| {side} | " + " | ".join(cells) + " |")
    return "\n".join(rows) if len(rows) > 2 else ""


def workload_table(result: Result, workload: str) -> str:
    """Medians over all rounds, a row for each load and side."""
    heads = ("load", "side", "per second", "min - max", "MB/s", "p50 ms", "p99 ms", "CPU us", "memory MiB", "others")
    rows = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
    mine = [run for run in result.runs if run.block.partition("/")[0] == workload]
    for load in dict.fromkeys(run.load for run in mine):
        of_load = [run for run in mine if run.load == load]
        for side in sorted({run.side for run in of_load}, key=lambda name: (not name.startswith("dcf"), name)):
            runs = [run for run in of_load if run.side == side]
            rates = [run.per_s for run in runs]
            cells = (
                load, side, f"{median(runs, 'per_s'):.0f}", f"{min(rates):.0f} - {max(rates):.0f}",
                f"{median(runs, 'mb_per_s'):.0f}" if "MiB" in load else "",
                f"{median(runs, 'p50_ms'):.2f}", f"{median(runs, 'p99_ms'):.2f}", f"{median(runs, 'cpu_us'):.0f}",
                f"{median(runs, 'memory_mib'):.0f}", f"{median(runs, 'others'):.0%}",
            )  # fmt: skip
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def conditions(result: Result) -> str:
    """Machine, generators, sides and what is wrong with any of them."""
    lines = [f"- {line}" for line in result.machine.lines()]
    lines.append("- Load: " + ", ".join(f"{name} {version}" for name, version in result.generators.items()))
    rounds, seconds = result.plan.rounds, result.plan.seconds
    lines.append(
        f"- {rounds} rounds of {seconds} s a load ({seconds * LONGER} s for bodies of a MiB and more), "
        f"{result.took_s / 60:.0f} min in all"
    )
    for name, peer in PEERS.items():
        if name in result.missing:
            lines.append(f"- {name}: NOT MEASURED, it cannot be installed here: {result.missing[name]}")
        elif name in result.peer_versions:
            versions = ", ".join(f"{package} {version}" for package, version in result.peer_versions[name].items())
            lines.append(f"- {name} ({versions}): {peer.settings}" + (f"; {peer.lacks}" if peer.lacks else ""))
    lines += [
        f"- FAILED: {failure.block}, {failure.load}: {' '.join(failure.reason.split())[:300]}"
        for failure in result.failures
    ]
    return "\n".join(lines)


def missed(result: Result) -> str:
    """Which lines are below their aim, and which were not measured."""
    found = verdicts(result)
    parts = []
    for title, chosen in (
        ("Below what it must be", [one for one in found if one.must_met is False]),
        ("Aim missed", [one for one in found if one.must_met and one.aim_met is False]),
        ("Not measured", [one for one in found if one.must_met is None]),
    ):
        said = "".join(f"\n- {one.line.says}" for one in chosen)
        parts.append(f"{title}:\n{said}" if said else f"{title}: none.")
    return "\n\n".join(parts)


def slower(result: Result) -> str:
    """Where a peer's median is better than DCF's, in any table."""
    rows = []
    for workload in WORKLOADS:
        mine = [run for run in result.runs if run.block.partition("/")[0] == workload]
        for load in dict.fromkeys(run.load for run in mine):
            is_timed = workload == "sleep" or load == "one stream"  # at these a rate says nothing
            own = of_workload(mine, workload, "dcf", load)
            for side in dict.fromkeys(run.side for run in mine if not run.side.startswith("dcf")):
                theirs = of_workload(mine, workload, side, load)
                if not own or not theirs:
                    continue
                ratio = median(theirs, "p50_ms" if is_timed else "per_s") / median(
                    own, "p50_ms" if is_timed else "per_s"
                )
                if (ratio < 1) if is_timed else (ratio > 1):
                    rows.append(f"- {workload}, {load}: {side}, {ratio:.2f} x DCF's {'p50' if is_timed else 'rate'}")
    return "\n".join(rows) or "- nowhere"


def page(result: Result, command: str, profile: str) -> str:
    """`results.md`. `profile`: where the time goes, as somebody found it out; not of this run."""
    return f"""# What a call costs, beside others

```
{command}
```

repeats all of this; [docs/benchmarks.md](../docs/benchmarks.md) says what each line means. Figures are medians, those
with an `x` are ratios: the median of the rounds' own, whose two runs are neighbours in time.

{main_table(result)}

![the echo: requests per second, latency and CPU, by side](pictures/{PICTURE})

## What DCF must reach, and aims at

{lines_table(result)}

{missed(result)}

## Where DCF is not the fastest

By the medians of the tables below:

{slower(result)}

{profile.strip()}

## With what

{conditions(result)}

## All figures

`per second` are answers (of streams their chunks), `p50` and `p99` are of an answer (of a stream its first chunk); in
`sleep` the {SLEEP_MS:g} ms of the handler are in them. `CPU us` is that of all processes of a side for one answer,
`memory` their PSS, `others` the share of the machine's CPU that went neither to the side nor to the load generator.

{tables(result)}
"""


def _amount(value: float, unit: str) -> str:
    if unit == "/s":
        return f"{value:,.0f}/s".replace(",", " ")
    return f"{value:.2f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _bound(limit: Limit, wanted: float | None) -> str:
    said = f"{wanted:,.0f}/s".replace(",", " ") if limit.unit == "/s" else f"{wanted:g} {limit.unit}"
    return ("≤ " if limit.at_most else "≥ ") + said


def _yes(met: bool | None) -> str:
    return "" if met is None else "met" if met else "**MISSED**"
