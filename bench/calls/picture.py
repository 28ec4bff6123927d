"""Draw the main table of the results, the echo.

In:   Runs. Out: a PNG (for it alone matplotlib is needed).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calls.lines import median, of_workload
from calls.measure import Run

MOST_BYTES = 100_000
PICTURE = "call_path.png"


def echo_sides(runs: Sequence[Run]) -> list[str]:
    """Those that took part in the echo, the fastest at 64 connections first."""
    sides = {run.side for run in runs if run.block.startswith("echo/")}
    return sorted(sides, key=lambda side: -median(of_workload(runs, "echo", side, "100 B x 64"), "per_s"))


def draw(runs: Sequence[Run], folder: Path) -> None:
    """Raises RuntimeError where it is too large."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def value(side: str, load: str, field: str) -> float:
        return median(of_workload(runs, "echo", side, load), field)

    sides = echo_sides(runs)
    loads = [
        load
        for load in dict.fromkeys(run.load for run in runs if run.block.startswith("echo/"))
        if load.startswith("100 B")
    ]
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), dpi=100, layout="constrained", width_ratios=(3, 1.2, 1.2))
    width = 0.8 / len(sides)
    for number, side in enumerate(sides):
        color = "tab:blue" if side == "dcf" else pyplot.get_cmap("Greys")(0.75 - 0.12 * number)
        places = [at + (number - (len(sides) - 1) / 2) * width for at in range(len(loads))]
        bars = axes[0].bar(places, [value(side, load, "per_s") for load in loads], width, label=side, color=color)
        axes[0].bar_label(bars, fmt="%.0f", fontsize=6, rotation=90, padding=2)
        for axis, load, field in ((axes[1], "100 B x 1", "p50_ms"), (axes[2], "100 B x 64", "cpu_us")):
            bar = axis.barh(len(sides) - number, value(side, load, field), color=color)
            axis.bar_label(bar, fmt=lambda seen: f"{seen:.2f}" if seen < 10 else f"{seen:.0f}", fontsize=7, padding=2)
    axes[0].set(title="HTTP echo of 100 bytes: requests per second", xlabel="connections", yscale="log")
    axes[0].set_xticks(range(len(loads)), [load.rpartition(" ")[2] for load in loads])
    axes[0].legend(fontsize="small", ncols=3, loc="upper left")
    axes[0].margins(y=0.45)  # room for the legend
    for axis, title in ((axes[1], "p50 at 1 connection, ms"), (axes[2], "CPU per request at 64, us")):
        axis.set_title(title, fontsize="medium")
        axis.set_yticks(range(len(sides), 0, -1), sides, fontsize="small")
        axis.set_xscale("log")
        axis.margins(x=0.25)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PICTURE
    figure.savefig(path, pil_kwargs={"optimize": True})
    pyplot.close(figure)
    if path.stat().st_size >= MOST_BYTES:
        raise RuntimeError(f"{path}: {path.stat().st_size} bytes, at most {MOST_BYTES}")
