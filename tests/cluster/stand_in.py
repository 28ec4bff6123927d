"""A real cluster process with small programs in place of scheduler and gateway.

`stand_in.py cluster` is `python -m dcf.cluster` with another plan; the other
forms are the small programs. What they do is said in STAND_IN_* variables.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from dcf.cluster.main import main
from dcf.cluster.programs import Plan, Program
from dcf.lifecycle import die_with_parent


def change_plan(plan: Plan) -> Plan:
    def stand_in(program: Program) -> Program:
        return replace(program, command=(sys.executable, __file__, program.name))

    return replace(
        plan,
        scheduler=stand_in(plan.scheduler),
        gateways=tuple(stand_in(gateway) for gateway in plan.gateways),
        stop_replicas=stand_in(plan.stop_replicas),
    )


def note(text: str) -> None:
    with Path(os.environ["STAND_IN_EVENTS"]).open("a") as events:
        events.write(text + "\n")


def on_terminate(*_: object) -> None:
    raise SystemExit(0)


def run_program(name: str) -> None:
    note(f"{name} {os.getpid()}")
    if name == "stop-replicas":
        return
    if os.environ.get("STAND_IN_FAIL") == name:
        sys.stderr.write("a line before\ndcf: the flux capacitor is missing\n")
        raise SystemExit(1)
    die_with_parent()
    signal.signal(signal.SIGTERM, on_terminate)
    if name == "scheduler" and (orphan_s := os.environ.get("STAND_IN_ORPHAN_S")):
        orphan = subprocess.Popen(["sleep", orphan_s], start_new_session=True)
        note(f"orphan {orphan.pid}")
    try:
        ready_fd = int(os.environ["DCF_READY_FD"])
        if os.environ.get("STAND_IN_MUTE") != name:
            os.write(ready_fd, b"1")
        os.close(ready_fd)
        if name.startswith("gateway"):
            serve(name)
        while True:
            signal.pause()
    finally:
        if name.startswith("gateway"):
            time.sleep(float(os.environ.get("STAND_IN_DRAIN_S", "0")))
        note(f"{name} stopped")


def serve(name: str) -> None:
    listener = socket.socket(fileno=int(os.environ["DCF_LISTEN_FD"]))
    while True:
        connection, _ = listener.accept()
        with connection:
            names = " ".join(sorted(key for key in os.environ if key.startswith("DCF_")))
            connection.sendall(f"{name} {os.getpid()} {names}\n".encode())


if __name__ == "__main__":
    if sys.argv[1] == "cluster":
        sys.exit(main(change_plan))
    run_program(sys.argv[1])
