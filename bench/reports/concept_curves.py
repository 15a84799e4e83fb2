"""How erasure and damage grow with the number of concepts erased together: `vestige curves`.

MACE (arXiv 2403.06135, section 4.2) and SPEED (arXiv 2503.07392) compare mass erasure by such curves; H is MACE's harmonic mean
of efficacy (1 - accuracy on erased things), specificity (accuracy on near things) and generality's stand-in here, accuracy on
unrelated things.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vestige.bench.reports import results

PANELS = {"target": "erased", "siblings": "near, to be kept", "others": "unrelated, to be kept"}  # split -> what it holds


def main(arguments) -> int:
    frame = curves(results.load(arguments.records))
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(arguments.out / "curves.csv", index=False)
    (arguments.out / "curves.md").write_text(table(frame))
    draw(frame, arguments.out / "curves.png")
    print(table(frame))
    return 0


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns method, concepts (how many), split, value, ci_low, ci_high, n; shares of images in which the thing is seen."""
    seen = frame[(frame["metric"] == "presence") & (frame["column"] == "present") & (frame["attack"] == "none")]
    seen = seen[seen["split"].isin(list(PANELS))].assign(concepts=lambda f: f["concept"].str.count(r"\+") + 1)
    if seen.empty:
        raise ValueError(
            "no finished record has presence on target, siblings and others. Run a sweep over concept sets first: "
            "vestige run experiment=mass_erasure"
        )
    ambiguous = seen.groupby(["method", "concepts", "split"])["key"].agg(["nunique", "size"])
    for several, what in (("nunique", "records"), ("size", "judges in the record")):
        if ambiguous[several].max() > 1:
            method, n, split = ambiguous[several].idxmax()
            told = f"{method} has several {what} of {n} concepts ({split})"
            raise ValueError(f"{told}: keep those of one experiment in a folder (--records).")
    columns = ["method", "concepts", "split", "value", "ci_low", "ci_high", "n"]
    return seen[columns].sort_values(columns[:3], kind="stable").reset_index(drop=True)


def harmonic(target: float, siblings: float, others: float) -> float:
    """MACE's H: 3 / (1 / (1 - target) + 1 / siblings + 1 / others); 0 where one of them is 0."""
    parts = (1 - target, siblings, others)
    return 0.0 if min(parts) <= 0 else 3 / sum(1 / part for part in parts)


def table(frame: pd.DataFrame) -> str:
    """Markdown: a line for each method and split, a column for each number of concepts; percent with 95 % intervals."""
    numbers = sorted(frame["concepts"].unique())
    cells = {(r.method, r.split, r.concepts): r for r in frame.itertuples()}
    lines = ["| method | seen in images of | " + " | ".join(map(str, numbers)) + " |", "|---" * (len(numbers) + 2) + "|"]
    for method in results.order(frame["method"].tolist()):
        for split in PANELS:
            shown = [_cell(cells.get((method, split, n))) for n in numbers]
            lines.append(f"| {method} | {split} {'↓' if split == 'target' else '↑'} | " + " | ".join(shown) + " |")
        scores = []
        for n in numbers:
            found = [cells[method, split, n] for split in PANELS if (method, split, n) in cells]
            scores.append("" if len(found) < len(PANELS) else f"{100 * harmonic(*(cell.value for cell in found)):.0f}")
        lines.append(f"| {method} | H ↑ | " + " | ".join(scores) + " |")
    return "\n".join(lines) + "\n"


def _cell(cell) -> str:
    if cell is None:
        return ""
    interval = "" if pd.isna(cell.ci_low) else f" ({100 * cell.ci_low:.0f}-{100 * cell.ci_high:.0f})"
    return f"{100 * cell.value:.0f}{interval}"


def draw(frame: pd.DataFrame, file: Path) -> None:
    """One panel for each split, a line with its interval for each method."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(12, 3.8), sharey=True, layout="constrained")
    methods = results.order(frame["method"].tolist())
    for axis, (split, title) in zip(axes, PANELS.items(), strict=True):
        for k, method in enumerate(methods):
            part = frame[(frame["method"] == method) & (frame["split"] == split)]
            colour = "black" if method == "original" else f"C{k}"
            style = {"color": colour, "linestyle": "--" if method == "original" else "-", "marker": "o", "markersize": 4}
            # Set apart a little, else intervals of methods hide each other.
            x = part["concepts"] * 1.03 ** (k - len(methods) / 2)
            axis.plot(x, 100 * part["value"], label=method, **style)
            axis.vlines(x, 100 * part["ci_low"], 100 * part["ci_high"], color=colour, alpha=0.35)
        axis.set(title=f"{split}: {title}", xscale="log", xlabel="concepts erased together", ylim=(-3, 103))
        numbers = sorted(frame["concepts"].unique())
        axis.set_xticks(numbers, [str(n) for n in numbers])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("images in which it is seen, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods), frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
