"""Give out what the machines still have between the functions that want it.

In:   the machines, what one replica of each function needs, what each has
      and wishes for.
Out:  how many replicas of each can be placed, and why not more; the idle
      functions that have to let go of a GPU that another one waits for.
Pure: no I/O, no clock.

What counts: GPUs (limits.gpu); memory (`requests`, else the limit, for all of
it may be used at once); CPUs that `requests` reserves, while a limit of CPUs
alone only slows down. A function with none of these fits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dcf.domain.function import FunctionSpec
from dcf.domain.quantity import parse_cpu, parse_memory
from dcf.domain.status import NodeStatus

UNLIMITED = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one replica reserves."""

    gpus: int = 0
    cpus: float = 0.0
    memory_bytes: int = 0

    @property
    def is_nothing(self) -> bool:
        """It fits everywhere."""
        return not (self.gpus or self.cpus or self.memory_bytes)


def need_of(spec: FunctionSpec) -> Need:
    """What a replica of `spec` reserves."""
    requests = spec.requests
    memory = requests.get("memory") or spec.limits.get("memory")
    return Need(
        gpus=spec.gpu_count,
        cpus=parse_cpu(requests["cpu"]) if "cpu" in requests else 0.0,
        memory_bytes=parse_memory(memory) if memory else 0,
    )


@dataclass(slots=True)
class Room:
    """What one machine has left. Its owner takes from it."""

    node: str
    gpus: int
    cpus: float
    memory_bytes: float

    def holds(self, need: Need) -> int:
        """How many more replicas of that need."""
        ratios = [UNLIMITED]
        if need.gpus:
            ratios.append(self.gpus // need.gpus)
        if need.cpus:
            ratios.append(math.floor(self.cpus / need.cpus + 1e-9))
        if need.memory_bytes:
            ratios.append(math.floor(self.memory_bytes / need.memory_bytes))
        return max(0, min(ratios))

    def take(self, need: Need, number: int = 1) -> None:
        """Or give back, where `number` is below 0."""
        self.gpus -= number * need.gpus
        self.cpus -= number * need.cpus
        self.memory_bytes -= number * need.memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One function's."""

    function: str
    need: Need
    wish: int
    """Replicas that its calls ask for, within its own limits."""
    held: Mapping[str, int]
    """Replicas that are there, by machine, those that drain included: what they hold is not free yet."""
    staying: int
    """Those of them that do not drain."""
    waiting: float
    """Calls that wait, or are more than its replicas can take: who has more of them is served first."""
    floor: int = 0
    """It gets so many however full the machines are: the same function with a fixed number would run too."""
    may_sleep: bool = False
    """Idle, with min 0: it lets go of what another one waits for."""
    elastic: bool = True
    """Its number is decided here; a fixed one only holds."""

    @property
    def there(self) -> int:
        """Replicas that are there."""
        return sum(self.held.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one function gets."""

    replicas: int
    reason: str = ""
    """Why not what it wished; "" where it is."""
    asleep: bool = False
    """It is idle, and shall want none any more."""


def rooms_of(nodes: Sequence[NodeStatus], claims: Sequence[Claim], *, all_gpus: bool = False) -> list[Room]:
    """What each machine that takes replicas has left beside the claims.

    GPUs are those that the backend says are free (others than functions may hold some), or all that there are.
    """
    rooms = []
    for node in nodes:
        if not node.ready:
            continue
        room = Room(
            node=node.name,
            gpus=len(set(node.gpus) if all_gpus else set(node.gpus) - set(node.gpus_used)),
            cpus=node.cpus,
            memory_bytes=float(node.memory_bytes),
        )
        for claim in claims:
            # One machine alone has no name at its replicas.
            number = claim.held.get(node.name, 0) + (claim.held.get("", 0) if len(nodes) == 1 and node.name else 0)
            room.take(Need(cpus=claim.need.cpus, memory_bytes=claim.need.memory_bytes), number)
        rooms.append(room)
    return rooms


def share(nodes: Sequence[NodeStatus], claims: Sequence[Claim]) -> dict[str, Grant]:
    """Return what each elastic claim gets, by function.

    Free room goes, a replica at a time, to who has the most waiting calls for each replica that it has or got. Where
    somebody still waits for a GPU, idle functions that may sleep are put to sleep, those with the fewest GPUs first:
    what they hold comes free when their replicas have drained, and is given out by a later decision.
    """
    grants = {one.function: Grant(replicas=one.wish) for one in claims if one.elastic}
    needy = [one for one in claims if one.elastic and not one.need.is_nothing and one.wish > 0]
    if not needy:
        return grants
    rooms = rooms_of(nodes, claims)
    whole = rooms_of(nodes, (), all_gpus=True)
    # What no machine could ever hold is the backend's to explain, when it is to start the first one.
    needy = [one for one in needy if any(room.holds(one.need) for room in whole)]
    got = {one.function: min(one.wish, max(one.staying, one.floor)) for one in needy}
    open_claims = [one for one in needy if one.wish > got[one.function]]
    starved: list[Claim] = []
    while open_claims:
        # Ties by name: the same picture gives the same answer.
        one = min(open_claims, key=lambda claim: (-_urgency(claim, got[claim.function]), claim.function))
        fitting = [room for room in rooms if room.holds(one.need)]
        if not fitting:
            open_claims.remove(one)
            starved.append(one)
            continue
        # The fullest that still fits: room for large ones stays in one piece.
        min(fitting, key=lambda room: (room.holds(one.need), room.node)).take(one.need)
        got[one.function] += 1
        if got[one.function] >= one.wish:
            open_claims.remove(one)
    for one in needy:
        number = got[one.function]
        if number < one.wish:
            grants[one.function] = Grant(replicas=number, reason=_why(one, nodes, claims, rooms))
    _put_to_sleep(claims, starved, rooms, grants)
    return grants


def _urgency(claim: Claim, number: int) -> float:
    """Waiting calls for each replica that it has or got; one with none and calls that wait goes first."""
    return claim.waiting / number if number else claim.waiting * 1e6 + 1.0


def _put_to_sleep(
    claims: Sequence[Claim], starved: Sequence[Claim], rooms: Sequence[Room], grants: dict[str, Grant]
) -> None:
    """The fewest idle functions without which as many of the starved can be placed as without all of them."""
    waiters = [one for one in starved if one.need.gpus and not one.may_sleep]
    lacks = [(one.need, one.wish - grants[one.function].replicas) for one in waiters]
    # What drains, or will, comes free without anybody being put to sleep.
    kept = {one.function: min(grants[one.function].replicas, one.staying) for one in claims if one.function in grants}
    free = _with_back(rooms, [(one, one.there - kept.get(one.function, one.staying)) for one in claims])
    idle = [one for one in claims if one.elastic and one.may_sleep and one.need.gpus and one.staying and one.wish]
    asleep = sorted(idle, key=lambda claim: (claim.there * claim.need.gpus, claim.function))
    most = _placed(_with_back(free, [(one, one.there) for one in asleep]), lacks)
    for one in reversed(asleep.copy()):
        others = [other for other in asleep if other is not one]
        if _placed(_with_back(free, [(other, other.there) for other in others]), lacks) == most:
            asleep = others
    for one in asleep:
        names = ", ".join(sorted(claim.function for claim in waiters))
        grants[one.function] = Grant(replicas=0, reason=f"idle, and {names} waits for a GPU", asleep=True)


def _with_back(rooms: Sequence[Room], ended: Sequence[tuple[Claim, int]]) -> list[Room]:
    """The rooms after so many replicas of these claims have ended."""
    after = {room.node: replace(room) for room in rooms}
    for claim, number in ended:
        for node, there in claim.held.items():
            room = after.get(node) or (next(iter(after.values())) if len(after) == 1 and not node else None)
            if room is not None:
                room.take(claim.need, -min(number, there))
            number -= min(number, there)
    return list(after.values())


def _placed(rooms: Sequence[Room], lacks: Sequence[tuple[Need, int]]) -> int:
    """How many of the replicas that are lacking fit; uses the rooms up."""
    placed = 0
    for need, number in lacks:
        for room in rooms:
            fits = min(room.holds(need), number)
            room.take(need, fits)
            placed, number = placed + fits, number - fits
    return placed


def _why(claim: Claim, nodes: Sequence[NodeStatus], claims: Sequence[Claim], rooms: Sequence[Room]) -> str:
    need = claim.need
    ready = [node for node in nodes if node.ready]
    if need.gpus and not any(room.gpus >= need.gpus for room in rooms):
        total, used = sum(len(node.gpus) for node in ready), sum(len(node.gpus_used) for node in ready)
        holders = sorted(one.function for one in claims if one.need.gpus and one.held)
        by = f" by {', '.join(holders)}" if holders else ""
        what = f"no GPU free: {used} of {total} are held{by}, each replica asks for {need.gpus}"
    else:
        asked = [f"{need.gpus} GPU{'' if need.gpus == 1 else 's'}"] if need.gpus else []
        asked += [f"{need.cpus:g} CPU{'' if need.cpus == 1 else 's'}"] if need.cpus else []
        asked += [f"{need.memory_bytes / 1e9:.1f} GB"] if need.memory_bytes else []
        what = f"no machine has room for more, each replica is promised {' and '.join(asked)}"
    return what
