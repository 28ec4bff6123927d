"""Measure DCF beside LitServe, BentoML, Ray Serve, MLServer, FastAPI and bare gRPC: `python bench/call_path.py`.

Each of them meets DCF in a block of its own for each workload: both are up, and take the same loads in turns.
docs/benchmarks.md says how to repeat it and what each line means; results.md is what came of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NoReturn

from calls.machine import describe
from calls.measure import Failure, Run, measure_block, say
from calls.peers import PEERS, PeerMissingError, install, versions
from calls.picture import draw
from calls.plan import FUNCTIONS, TWO_GATEWAYS, UNBATCHED, UNBATCHED_FUNCTION, WORKLOADS, Block, Function, Plan, plan
from calls.report import Result, conditions, lines_table, main_table, missed, page, tables, verdicts
from loadgen import LoadFailedError, build_own, tool
from loadgen import versions as generator_versions
from sides import Cluster, Side, SideFailedError, open_cluster, open_server, wait_for

HERE = Path(__file__).parent


def open_function(cluster: Cluster, function: Function) -> AbstractContextManager[Side]:
    """Deployed while the block lasts."""
    return cluster.open_function(
        function.name, handler=function.handler, config=function.config, exchange=function.exchange
    )


def run_block(block: Block, cluster: Cluster, folder: Path, chosen: Plan) -> tuple[list[Run], list[Failure]]:
    """Open both sides, measure, close them. Raises SideFailedError where it is DCF that fails."""
    with ExitStack() as stack:
        ours = stack.enter_context(open_function(cluster, FUNCTIONS[block.workload]))
        sides = [cluster.grpc_side() if block.workload == "grpc" else ours]
        if block.other == UNBATCHED:
            sides.append(stack.enter_context(open_function(cluster, UNBATCHED_FUNCTION)))
            sides[1] = dataclasses.replace(sides[1], name=UNBATCHED)
        elif block.other == TWO_GATEWAYS:
            two = stack.enter_context(open_cluster(folder / "two", name=TWO_GATEWAYS, options=("--processes", "2")))
            sides.append(stack.enter_context(open_function(two, FUNCTIONS[block.workload])))
        for side in sides:
            wait_for(side)
        if block.other in PEERS:
            launch = PEERS[block.other].launch(block.workload)
            try:
                sides.append(stack.enter_context(open_server(block.other, launch, folder / "peers")))
            except SideFailedError as error:
                return [], [Failure(block=block.name, load="start", reason=str(error))]
        return measure_block(block, sides, chosen.rounds, chosen.seconds)


def bench(chosen: Plan) -> Result:
    """Install, start, measure, stop. Raises SideFailedError, LoadFailedError."""
    build_own()
    for name in ("wrk", "h2load"):
        tool(name)
    missing: dict[str, str] = {}
    met = {block.other for block in chosen.blocks}
    for peer in PEERS.values():
        if peer.name in met and peer.is_installed_apart:
            say(f"installing {peer.name}")
            try:
                install(peer.name)
            except PeerMissingError as error:
                missing[peer.name] = str(error)
    began, load_before = time.monotonic(), os.getloadavg()[0]
    runs: list[Run] = []
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="dcf-bench-") as folder, open_cluster(Path(folder)) as cluster:
        for block in chosen.blocks:
            if block.other not in missing:
                say(f"{block.name}: starting")
                found, failed = run_block(block, cluster, Path(folder), chosen)
                runs += found
                failures += failed
    say("")
    if not runs:
        reasons = [f"{failure.block}: {failure.reason}" for failure in failures]
        raise SideFailedError("nothing was measured. " + "\n".join([*missing.values(), *reasons]))
    taking_part = {run.side for run in runs}
    return Result(
        plan=chosen,
        runs=runs,
        failures=failures,
        missing=missing,
        peer_versions={name: versions(name) for name in PEERS if name in taking_part},
        generators=generator_versions(),
        machine=describe(runs, load_before),
        took_s=time.monotonic() - began,
    )


def as_json(result: Result) -> str:
    """All of it."""
    lines = [
        {"says": one.line.says, "seen": one.seen, "must_met": one.must_met, "aim_met": one.aim_met}
        for one in verdicts(result)
    ]
    facts = {"lines": lines, **{field.name: getattr(result, field.name) for field in dataclasses.fields(result)}}
    return json.dumps(facts, indent=2, default=dataclasses.asdict) + "\n"


def main() -> int:
    """0 where DCF did its work without an error, whatever it reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the most important lines, in a minute")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a workload ({', '.join(WORKLOADS)}), a peer ({', '.join(PEERS)}), or both, as in echo/litserve; "
        "may be given again",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs and verdicts there as well")
    parser.add_argument("--write", action="store_true", help="results.md and its picture; of the whole, in full")
    options = parser.parse_args()
    chosen = plan(short=options.short, only=options.only)
    if not chosen.blocks:
        parser.error("nothing has such a name")
    if options.write and (options.short or options.only):
        parser.error("--write is of the whole, in full")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    try:
        result = bench(chosen)
    except (SideFailedError, LoadFailedError) as error:
        sys.stderr.write(f"call_path: {error}\n")
        return 1
    parts = (main_table(result), lines_table(result), missed(result), tables(result), conditions(result))
    print("\n\n".join(part for part in parts if part))
    if options.json:
        options.json.write_text(as_json(result))
    if options.write:
        (HERE / "results.md").write_text(
            page(result, "python bench/call_path.py --write", (HERE / "profile.md").read_text())
        )
        draw(result.runs, HERE / "pictures")
    return 0


def _on_signal(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)  # so that the sides are stopped


if __name__ == "__main__":
    sys.exit(main())
