"""Play loads against DCF's scaler, Ray Serve's and OpenFaaS's, in virtual time.

`python bench/scaling_sim.py [--trace NAME] [--short] [--write]` prints a table; nothing is started and no clock is
read, so that a busy machine does no harm. `--write` makes `scaling_results.md` and `pictures/scaling-*.png` anew
(`pip install matplotlib`). What it models, and how to read it: `scaling_results.md`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from scaling.cluster import Model, play
from scaling.report import Figures, draw, figures_of, optimum, page, table
from scaling.rules import POLICY, SLOTS, rule_sets
from scaling.traces import MAKERS, Trace, make

HERE = Path(__file__).parent
AIM = (POLICY.target or SLOTS) * POLICY.utilization
"""Calls in flight a replica: the optimum of all rules is that of ours."""
DEFAULT = Model()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", choices=MAKERS, action="append", help="this one alone; may be given again")
    parser.add_argument("--short", action="store_true", help="shorter traces, a few seconds in all")
    parser.add_argument("--write", action="store_true", help="scaling_results.md and its pictures; all traces in full")
    parser.add_argument("--service", type=float, default=DEFAULT.service_s, metavar="S", help="a call's length")
    parser.add_argument("--start", type=float, default=DEFAULT.start_s, metavar="S", help="a replica's start")
    parser.add_argument("--queue", type=int, default=DEFAULT.queue, help="calls that may wait")
    parser.add_argument("--even", action="store_true", help="calls evenly spaced instead of a Poisson process")
    parser.add_argument("--seed", type=int, default=DEFAULT.seed)
    options = parser.parse_args()
    if options.write and (options.short or options.trace):
        parser.error("--write is of all traces in full")
    model = Model(
        service_s=options.service,
        start_s=options.start,
        queue=options.queue,
        poisson=not options.even,
        seed=options.seed,
    )
    traces = [make(name, short=options.short, seed=model.seed) for name in options.trace or MAKERS]
    rows: list[Figures] = []
    for trace in traces:
        rows += one_trace(trace, model, HERE / "pictures" if options.write else None)
    print(table(rows))
    if options.write:
        command = " ".join(["python", "bench/scaling_sim.py", *sys.argv[1:]])
        (HERE / "scaling_results.md").write_text(page(rows, traces, model, AIM, command))


def one_trace(trace: Trace, model: Model, pictures: Path | None) -> list[Figures]:
    """Its rows, ours first."""
    began_s = time.monotonic()
    # All begin with what the first level needs: a start from one replica would be a jump in every trace.
    replicas = optimum(trace, AIM)[0]
    runs = [play(trace, rule, model, replicas=replicas) for rule in rule_sets()]
    if pictures:
        draw(runs, AIM, pictures)
    print(f"{trace.name}: {time.monotonic() - began_s:.1f} s", file=sys.stderr)
    return [figures_of(run, model, AIM) for run in runs]


if __name__ == "__main__":
    main()
