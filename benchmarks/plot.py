"""Draws the tables of ``benchmarks/results/README.md``: one picture for each of its sections, named after it.

    python -m benchmarks.plot

Contestants become bars, growth becomes lines, and other tables are left out. Needs matplotlib, which nothing
else here does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
PANEL_INCHES = 3.0


class Table(NamedTuple):
    """What stands under one title."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    @property
    def compares(self) -> bool:
        """Whether its rows are contestants."""
        return self.columns[1:3] == ["median s", "min-max s"]

    @property
    def grows(self) -> list[int]:
        """The columns of seconds, where the first is one of sizes."""
        numbers = all(re.fullmatch(r"[\d.]+", row[0]) for row in self.rows)
        return [at for at, name in enumerate(self.columns) if at and numbers and name.endswith(" s")]


def sections(text: str) -> dict[str, list[Table]]:
    """The tables that can be drawn, by the section they are in."""
    found: dict[str, list[Table]] = {}
    section = title = ""
    table: Table | None = None
    for line in [*text.splitlines(), ""]:
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("### "):
            title = line[4:]
        elif line.startswith("|"):
            cells = [cell.strip().replace("*", "") for cell in line.strip("|").split("|")]
            if table is None:
                table = Table(title, cells, [])
            elif not set(line) <= set("|-"):
                table.rows.append(cells)
        elif table is not None:
            if table.rows and (table.compares or table.grows):
                found.setdefault(section, []).append(table)
            table = None
    return found


def file_name(section: str) -> str:
    return re.sub(r"\W+", "-", section.lower()).strip("-") + ".svg"


def bars(axis: Any, table: Table) -> None:
    """The median of each, with the least and the most, and the figure beside it."""
    rows = table.rows[::-1]
    names = [row[0] for row in rows]
    medians = [float(row[1]) for row in rows]
    ends = [tuple(map(float, row[2].split("-"))) for row in rows]
    errors = [
        [median - low for median, (low, _) in zip(medians, ends, strict=True)],
        [high - median for median, (_, high) in zip(medians, ends, strict=True)],
    ]
    colours = ["tab:blue" if name.startswith("ckptstore") else "lightgray" for name in names]
    axis.barh(names, medians, xerr=errors, color=colours, ecolor="gray", capsize=2)
    right = max(high for _, high in ends)
    for at, (median, (_, high)) in enumerate(zip(medians, ends, strict=True)):
        axis.text(high + right * 0.015, at, f"{median:g}", va="center", fontsize=8)
    axis.set_xlim(0, right * 1.12)
    axis.set_xlabel("seconds: median, least and most", fontsize=8)


def lines(axis: Any, table: Table) -> None:
    """A line for each column of seconds, both axes logarithmic."""
    sizes = [float(row[0]) for row in table.rows]
    for at in table.grows:
        seconds = [float(row[at]) or None for row in table.rows]  # too short to tell: no point
        axis.plot(sizes, seconds, marker="o", label=table.columns[at].removesuffix(" s"))
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axis.set_xlabel(table.columns[0], fontsize=8)
    axis.set_ylabel("seconds", fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def main() -> None:
    """Write the pictures beside the tables, in place of those that were there."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ckptstore"  # the same picture for the same figures
    from matplotlib import pyplot

    for old in RESULTS.glob("*.svg"):
        old.unlink()
    for section, tables in sections((RESULTS / "README.md").read_text(encoding="utf-8")).items():
        heights = [0.27 * len(table.rows) + 0.9 if table.compares else PANEL_INCHES for table in tables]
        figure, axes = pyplot.subplots(
            len(tables),
            1,
            figsize=(9, sum(heights)),
            height_ratios=heights,
            layout="constrained",
            squeeze=False,
        )
        for axis, table in zip(axes[:, 0], tables, strict=True):
            (bars if table.compares else lines)(axis, table)
            axis.set_title(table.title, fontsize=10, loc="left")
            axis.tick_params(labelsize=8)
        figure.savefig(RESULTS / file_name(section), metadata={"Date": None})
        print(RESULTS / file_name(section))


if __name__ == "__main__":
    main()
