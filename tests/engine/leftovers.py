"""Find and remove what a run left on this machine, by its fixed names.

In:   nothing but the names; `before`, what a machine was like before our engine touched its network.
Out:  `remove_leftovers` cleans, `find_leftovers` says what is still there.

Processes of a killed run die with it (machine.py); what outlives it is a bridge, firewall rules, cgroups and a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from pathlib import Path

from tests.engine.commands import FOLDER, run
from tests.engine.machine import CGROUP

BRIDGE = "dcf-e0"
MARK = "dcf-engine-tests"
"""The comment on each firewall rule of ours."""

BEFORE = FOLDER / "network-before.json"
"""The host's network before an engine of ours started in it; on disk, so that the next run can put it back."""

_TABLES = ("filter", "nat")

_PROGRAMS = ("dockerd", "containerd", "containerd-shim-runc-v2", "docker-proxy", "docker-registry")
"""What we start, or what that starts; an editor with one of our files open is left alone."""


def note_network() -> None:
    """Write down the host's links, firewall and forwarding, for `restore_network`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    before = {
        "links": _links(),
        "forward": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "tables": {table: run("iptables-save", "-t", table) for table in _TABLES},
    }
    BEFORE.write_text(json.dumps(before))


def restore_network() -> None:
    """Put back what `note_network` saw: an engine leaves its bridges, chains and policies when it ends."""
    if not BEFORE.exists():
        return
    before = json.loads(BEFORE.read_text())
    for link in _links():
        if link not in before["links"] and link.startswith(("docker", "br-", "veth")):
            run("ip", "link", "delete", link, check=False)
    for table, rules in before["tables"].items():
        if rules.strip():
            run("iptables-restore", "--table", table, stdin=rules)
        else:
            run("iptables", "-w", "-t", table, "-F")
            run("iptables", "-w", "-t", table, "-X")
    Path("/proc/sys/net/ipv4/ip_forward").write_text(before["forward"])
    BEFORE.unlink()


def remove_bridge() -> None:
    """Remove our bridge, what is plugged into it on the host's side, and its firewall rules."""
    for link in _links():
        if link == BRIDGE or link.startswith(f"{BRIDGE}."):
            run("ip", "link", "delete", link, check=False)
    for rule in _rules():
        run("iptables", "-w", "-D", *rule.split()[1:])


def remove_leftovers() -> None:
    """Remove whatever carries our names; does nothing on a clean machine."""
    for pid in _processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    if os.geteuid() == 0:
        for mount in reversed(_mounts()):
            run("umount", "--lazy", mount, check=False)
        if shutil.which("ip") and shutil.which("iptables"):
            remove_bridge()
            restore_network()
        remove_cgroups()
    shutil.rmtree(FOLDER, ignore_errors=True)


def remove_cgroups() -> None:
    """Remove the cgroups of containers that are gone; the kernel refuses where one still runs."""
    for top in _cgroups():
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def find_leftovers() -> list[str]:
    """What is still there, one line each; empty is clean."""
    left = [f"process {pid}: {_command(pid)}" for pid in _processes()]
    left += [f"mount {mount}" for mount in _mounts()]
    left += [f"link {link}" for link in _links() if link.startswith(BRIDGE)]
    left += [f"firewall rule {rule}" for rule in _rules()]
    left += [f"cgroup {cgroup}" for cgroup in _cgroups()]
    left += [f"folder {FOLDER}: {sorted(os.listdir(FOLDER))}"] if FOLDER.exists() else []
    return left


def _links() -> list[str]:
    # Not /sys/class/net: in a network namespace that may still show the links of the host.
    return sorted(name for _, name in socket.if_nameindex())


def _rules() -> list[str]:
    if os.geteuid() != 0 or shutil.which("iptables") is None:
        return []
    return [line.replace('"', "") for line in run("iptables", "-w", "-S").splitlines() if MARK in line]


def _mounts() -> list[str]:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [mount for mount in mounts if mount.startswith(f"{FOLDER}/")]


def _cgroups() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    return [path for path in (root / CGROUP, *root.glob(f"*/{CGROUP}")) if path.is_dir()]


def _processes() -> list[int]:
    """Our programs that were started with a path in our folder: engines, their parts, registries."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _is_ours(_command(pid))]


def _is_ours(command: str) -> bool:
    return f"{FOLDER}/" in command and os.path.basename(command.split()[0]) in _PROGRAMS


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except (OSError, UnicodeDecodeError):
        return ""
