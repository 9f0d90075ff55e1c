"""Draws the tables of ``benchmarks/results/README.md`` that compare contestants, as one picture.

    python -m benchmarks.plot

Needs matplotlib, which nothing else here does.
"""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_TITLE = re.compile(r"### (.+)")
_ROW = re.compile(r"\| (?P<what>[^|]+) \| (?P<median>[\d.]+) \| (?P<low>[\d.]+)-(?P<high>[\d.]+) \|")
Bar = tuple[str, float, float, float]
"""Who, and the median, least and most seconds."""


def tables(text: str) -> dict[str, list[Bar]]:
    """The rows with seconds, by the title above them; titles without such rows are left out."""
    found: dict[str, list[Bar]] = {}
    title = ""
    for line in text.splitlines():
        if match := _TITLE.match(line):
            title = match[1]
        elif match := _ROW.match(line):
            bar = (
                match["what"].replace("*", ""),
                *(float(match[part]) for part in ("median", "low", "high")),
            )
            found.setdefault(title, []).append(bar)  # type: ignore[arg-type]  # mypy counts no generator
    return found


def main() -> None:
    """Write ``figures.svg`` beside the tables."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ckptstore"  # the same picture for the same figures
    from matplotlib import pyplot

    found = tables((RESULTS / "README.md").read_text(encoding="utf-8"))
    heights = [len(bars) + 1.5 for bars in found.values()]
    figure, axes = pyplot.subplots(
        len(found), 1, figsize=(9, 0.34 * sum(heights)), height_ratios=heights, layout="constrained"
    )
    for axis, (title, bars) in zip(axes, found.items(), strict=True):
        names, medians, low, high = zip(*reversed(bars), strict=True)
        errors = [
            [median - least for median, least in zip(medians, low, strict=True)],
            [most - median for median, most in zip(medians, high, strict=True)],
        ]
        colours = ["tab:blue" if name.startswith("ckptstore") else "lightgray" for name in names]
        axis.barh(names, medians, xerr=errors, color=colours, ecolor="gray")
        axis.set_title(title, fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.set_xlabel("seconds, median; whiskers: least and most", fontsize=7)
    figure.savefig(RESULTS / "figures.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
