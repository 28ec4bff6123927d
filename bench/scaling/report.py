"""Say what came of the runs: figures, a table, pictures.

In:   Runs, and what the replicas aim at.
Out:  Figures of each; Markdown; PNGs (for these alone matplotlib is needed).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.cluster import LONG_WAIT_S, Model, Run
from scaling.rules import OpenFaas, RayServe
from scaling.traces import Trace

POINTS = 1200
"""In a picture, which is as many pixels wide."""
MOST_BYTES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One row of the table."""

    trace: str
    rule: str
    cost: float
    """Replica-seconds by those of the optimum."""
    calls: int
    waited: int
    refused: int
    reversals_per_h: float
    load_s: float | None
    """From the jump to as many ready replicas as calls in flight, less a replica's start; None: never, or no jump."""
    aim_s: float | None
    """The same to nine tenths of what the utilization asks for: closer than the tolerance no rule is meant to come."""
    note: str


def optimum(trace: Trace, aim: float) -> list[int]:
    """The fewest replicas that keep `aim` calls in flight a replica, one number a step; of one who knows what comes."""
    return [max(1, math.ceil(level / aim - 1e-9)) for level in trace.levels]


def figures_of(run: Run, model: Model, aim: float) -> Figures:
    """What the table says of it."""
    trace = run.trace
    best = optimum(trace, aim)
    load_s = aim_s = None
    if trace.jump_s is not None:
        level = trace.at(trace.jump_s)
        load_s = _capacity_s(run, math.ceil(level), model)
        aim_s = _capacity_s(run, math.ceil(0.9 * level / aim), model)
    return Figures(
        trace=trace.name,
        rule=run.rule,
        cost=run.used_s / (sum(best) * trace.step_s),
        calls=run.calls,
        waited=run.waited,
        refused=run.refused,
        reversals_per_h=reversals(run.desired) / trace.length_s * 3600,
        load_s=load_s,
        aim_s=aim_s,
        note=_note(run, max(trace.levels)),
    )


def reversals(changes: Sequence[tuple[float, int]]) -> int:
    """How often a change goes against the one before it."""
    steps = [after - before for (_, before), (_, after) in itertools.pairwise(changes)]
    return sum(one * other < 0 for one, other in itertools.pairwise(steps))


def _capacity_s(run: Run, needed: int, model: Model) -> float | None:
    jump_s = run.trace.jump_s or 0.0
    found = next((at for at, ready in run.ready if at >= jump_s and ready >= needed), None)
    return None if found is None else found - jump_s - model.start_s


def _note(run: Run, highest: float) -> str:
    if run.rule == OpenFaas.name and highest > OpenFaas.MAX:
        return f"not comparable: its max is {OpenFaas.MAX}, and the load {highest:.0f}"
    if run.rule == RayServe().name:
        return "aims at a waiting call for each that runs"
    return ""


def table(rows: Sequence[Figures]) -> str:
    """In Markdown."""
    heads = (
        "trace", "rules", "cost / optimum", f"waited > {LONG_WAIT_S:g} s", "share", "refused",
        "reversals/h", "to load, s", "to aim, s", "note",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * 7 + "---|"]
    for row in rows:
        jumps = any(other.load_s is not None for other in rows if other.trace == row.trace)
        cells = (
            row.trace, row.rule, f"{row.cost:.2f}", str(row.waited), f"{row.waited / max(1, row.calls):.2%}",
            f"{row.refused / max(1, row.calls):.1%}" if row.refused else "",
            f"{row.reversals_per_h:.1f}", _seconds(row.load_s, jumps), _seconds(row.aim_s, jumps), row.note,
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(seconds: float | None, jumps: bool) -> str:
    if seconds is None:
        return "never" if jumps else ""
    return f"{seconds:.1f}"


def page(rows: Sequence[Figures], traces: Sequence[Trace], model: Model, aim: float, command: str) -> str:
    """`scaling_results.md`."""
    pictures = "\n\n".join(f"![{trace.name}: {trace.says}](pictures/scaling-{trace.name}.png)" for trace in traces)
    said = "\n".join(f"| {trace.name} | {trace.says} | {trace.length_s / 60:g} |" for trace in traces)
    coming = "a Poisson process" if model.poisson else "an even row"
    return f"""# How the scaler follows a load, beside others' rules

```
{command}
```

repeats all of this, in virtual time and always the same (seed {model.seed}); it writes this page (the pictures need
matplotlib). `--trace NAME` plays one, `--short` shorter ones. The rows named dcf run the scheduler's own `decide` and
`LoadWindow`, fed as a gateway feeds them; the others are written from what Ray Serve and OpenFaaS publish
(`scaling/rules.py` says where), with their defaults.

The same for all: a replica computes one call at a time, a call takes {model.service_s:g} s, a replica
{model.start_s:g} s to start; calls come as {coming} and take turns in one queue of at most
{model.queue}; a replica that is taken away ends its call first.

| trace | calls in flight, if none waited | min |
|---|---|---:|
{said}

How to read the table:

- `cost / optimum`: replica-seconds, of starting and ending replicas too, by those of the fewest replicas that at each
  instant keep DCF's aim of {aim:g} calls in flight a replica. Nobody reaches 1 without knowing what comes; less than 1
  is a cluster that is fuller than the aim, which its waits pay for.
- `refused`: the queue was full; neither waited nor answered.
- `reversals/h`: changes of the wanted number against the one before.
- `to load`, `to aim`: after the jump, beyond the start of a replica, until as many are ready as calls are in flight,
  or nine tenths of what the aim asks for (the tenth is the tolerance).
- `ray serve` has its default of 2 calls a replica, of which this replica computes one: calls that come at their rate
  overrun a cluster that aims at a queue, until the full queue has raised it far above the load. `target {aim:g}` is
  the same rule with DCF's aim, which shows its windows and delays alone. OpenFaaS Community measures no load, only
  that there are more than 5 calls a second.

{table(rows)}

In the pictures: the optimum, DCF's wanted and ready replicas; thin, what the others have ready, as far as it is not
far above both.

{pictures}
"""


def draw(runs: Sequence[Run], aim: float, folder: Path) -> None:
    """One picture of the runs of one trace, the first of them ours. Raises RuntimeError where it is too large."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    trace = runs[0].trace
    unit, per = ("h", 3600.0) if trace.length_s > 7200 else ("s", 1.0)
    times = [trace.length_s * number / POINTS for number in range(POINTS)]
    best = optimum(trace, aim)
    figure, axes = pyplot.subplots(figsize=(10, 3.6), dpi=100, layout="constrained")
    shown = [at / per for at in times]

    def line(values: list[int], label: str, **style: Any) -> None:
        axes.step(shown, values, where="post", label=label, **style)

    line([best[int(at / trace.step_s)] for at in times], "optimum", color="black", linewidth=1.2)
    line(_sampled(runs[0].desired, times), "dcf wants", color="tab:orange", linewidth=1.2, linestyle="--")
    line(_sampled(runs[0].ready, times), "dcf ready", color="tab:blue", linewidth=1.8)
    for run, color in zip(runs[1:], ("tab:green", "tab:purple", "tab:red"), strict=False):
        line(_sampled(run.ready, times), run.rule, color=color, linewidth=0.7)
    highest = max(best)
    asked = max(count for _, count in runs[0].desired)
    is_log = asked > 4 * highest
    if is_log:
        axes.set_yscale("log")
    axes.set(title=f"{trace.name}: {trace.says}", xlabel=unit, ylabel="replicas")
    # What others do beyond this is in the table; here it would make a line of all the rest.
    axes.set_ylim(bottom=1 if is_log else 0, top=1.2 * max(asked, highest))
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"scaling-{trace.name}.png"
    figure.savefig(path, pil_kwargs={"optimize": True})
    pyplot.close(figure)
    if path.stat().st_size >= MOST_BYTES:
        raise RuntimeError(f"{path}: {path.stat().st_size} bytes, at most {MOST_BYTES}")


def _sampled(changes: Sequence[tuple[float, int]], times: Sequence[float]) -> list[int]:
    """What held at each of the ascending times."""
    values, number = [], 0
    for at in times:
        while number + 1 < len(changes) and changes[number + 1][0] <= at:
            number += 1
        values.append(changes[number][1])
    return values
