"""Which GPUs a new replica gets, and what is said where there are too few."""

from __future__ import annotations

import pytest

from dcf.domain.gpus import parse_listing
from dcf.errors import CapacityError, ConfigError
from dcf.nvidia import GpuListing
from dcf.scheduler.backends.gpu_ledger import choose_gpus
from dcf.scheduler.backends.gpu_source import LOOK_AGAIN_S, MachineGpus, find_gpus, take_inventory
from tests.gpus import A, B, listing

TWO = GpuListing(gpus=parse_listing(listing(A, B)))
NONE = GpuListing(problem="there is no nvidia-smi", no_driver=True)


def test_the_first_that_nobody_holds_are_given() -> None:
    gpus = ("g0", "g1", "g2", "g3")

    assert choose_gpus(gpus, {}, 0) == ()
    assert choose_gpus(gpus, {}, 2) == ("g0", "g1")
    assert choose_gpus(gpus, {"a-g1-0": ("g0",), "b-g1-0": ("g2",)}, 2) == ("g1", "g3")
    assert choose_gpus(gpus, {"a-g1-0": (), "old-g1-0": ("gone",)}, 1) == ("g0",)
    assert choose_gpus((), {}, 0) == ()


@pytest.mark.parametrize(
    ("gpus", "held", "count", "said"),
    [
        ("01", {"a-g1-0": "0", "b-g1-0": "1"}, 1, "no GPU free: 2 of 2 are held by a-g1-0, b-g1-0"),
        ("0", {"b-g1-0": "0", "a-g1-0": ""}, 1, "no GPU free: 1 of 1 is held by b-g1-0"),
        ("012", {"a": "01"}, 2, "not enough GPUs free: 2 are asked for, 1 is free; 2 of 3 are held by a"),
        ("01", {}, 3, "3 GPUs are asked for, and this machine has 2"),
        ("", {}, 1, "no GPU was found on this machine: no driver; install NVIDIA's driver"),
        ("0123456789", {f"r{n}": str(n) for n in range(10)}, 1, "r0, r1, r2, r3, r4, r5, r6, r7 and 2 more"),
    ],
)
def test_too_few_are_said_with_who_has_them(gpus: str, held: dict[str, str], count: int, said: str) -> None:
    with pytest.raises(CapacityError) as caught:
        choose_gpus(tuple(gpus), held, count, why_none="no driver")

    assert said in str(caught.value)


def test_no_two_replicas_ever_share_one() -> None:
    gpus, held = tuple(f"g{n}" for n in range(8)), {}

    for number, count in enumerate((1, 3, 2, 2)):
        held[f"r{number}"] = choose_gpus(gpus, held, count)

    assert sorted(gpu for ids in held.values() for gpu in ids) == sorted(gpus)


def test_the_setting_goes_before_the_engine_and_the_engine_before_the_driver() -> None:
    assert find_gpus("GPU-x,1", ["GPU-y"]) == ("GPU-x", "1")
    assert find_gpus("none", ["GPU-y"]) == ()
    assert find_gpus("", ["GPU-y"]) == ("GPU-y",)
    with pytest.raises(ConfigError, match="'all' is no GPU"):
        find_gpus("all")


def test_the_machines_gpus_are_known_by_their_full_ids() -> None:
    assert take_inventory("", visible=None, ask=lambda: TWO).ids == (A, B)
    assert take_inventory("1,GPU-bbbb", visible=None, ask=lambda: TWO).ids == (B,)
    assert take_inventory("GPU-elsewhere,0", visible=None, ask=lambda: TWO).ids == ("GPU-elsewhere", A)
    assert take_inventory("GPU-x", visible=None, ask=lambda: NONE).ids == ("GPU-x",)


def test_of_a_gpu_in_parts_the_parts_are_given() -> None:
    text = listing(A, B) + "  MIG 3g.20gb     Device  0: (UUID: MIG-1)\n  MIG 1g.5gb Device 1: (UUID: MIG-2)\n"
    gpus = parse_listing(text + "a line of a newer driver\n")

    assert [gpu.index for gpu in gpus] == ["0", "1", "1:0", "1:1"]
    assert take_inventory("", visible=None, ask=lambda: GpuListing(gpus=gpus)).ids == (A, "MIG-1", "MIG-2")


def test_a_scheduler_gives_out_no_more_than_it_may_see_itself() -> None:
    assert take_inventory("", visible="1", ask=lambda: TWO).ids == (B,)
    assert take_inventory("", visible="GPU-aaaa,7", ask=lambda: TWO).ids == (A,)
    assert take_inventory("0", visible="1", ask=lambda: TWO).ids == (A,), "who sets DCF_GPUS has decided"
    hidden = take_inventory("", visible="", ask=lambda: TWO)
    assert (hidden.ids, "hides all" in hidden.problem) == ((), True)


def test_the_driver_is_asked_once_and_again_only_where_it_did_not_answer() -> None:
    answers = [NONE, TWO, NONE]
    gpus = MachineGpus("", visible=None, ask=lambda: answers.pop(0))

    assert gpus.inventory(now=0.0).problem == "there is no nvidia-smi"
    assert gpus.inventory(now=LOOK_AGAIN_S - 1).ids == ()
    assert gpus.inventory(now=LOOK_AGAIN_S + 1, again=False).ids == ()
    assert gpus.inventory(now=LOOK_AGAIN_S + 1).ids == (A, B)
    assert gpus.inventory(now=10 * LOOK_AGAIN_S).ids == (A, B)
    assert answers == [NONE]
