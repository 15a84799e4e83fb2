"""A report's blocks as Markdown, LaTeX (booktabs) or one HTML file that sorts its tables by itself."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """text as shown; value is what HTML sorts by; best: its interval separates it from every other method's.

    grey: not comparable with its neighbours; Markdown, which has no grey, puts it in parentheses.
    """

    text: str
    value: float | None = None
    best: bool = False
    grey: bool = False


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Table:
    """heads end with an arrow where a direction is better; notes stand below."""

    heads: list[str]
    rows: list[list[Cell | str]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Code:
    """Lines to be copied into a shell."""

    text: str


Block = Heading | Table | Code | str


def markdown(blocks: list[Block]) -> str:
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, str):
        return block
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    lines = ["| " + " | ".join(block.heads) + " |", "|" + "---|" * len(block.heads)]
    lines += ["| " + " | ".join(_marked(cell, "**{}**", "({})") for cell in row) + " |" for row in block.rows]
    return "\n".join([*lines, *(f"\n- {note}" for note in block.notes)])


def _marked(cell: Cell | str, best: str, grey: str, clean=lambda text: text.replace("|", "/").replace("\n", " ")) -> str:
    if isinstance(cell, str):
        return clean(cell)
    text = grey.format(clean(cell.text)) if cell.grey else clean(cell.text)
    return best.format(text) if cell.best else text


LATEX = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "≈": r"$\approx$", "†": r"$\dagger$", "±": r"$\pm$", "≤": r"$\leq$", "<": r"$<$"}


def latex(blocks: list[Block]) -> str:
    """For \\input: one table environment per table, captioned by its headings. Needs \\usepackage{booktabs,graphicx,xcolor}."""
    out, trail = ["% needs \\usepackage{booktabs,graphicx,xcolor}"], {}
    for block in blocks:
        if isinstance(block, Heading):
            trail = {level: text for level, text in trail.items() if level < block.level} | {block.level: block.text}
        elif isinstance(block, Table):
            out.append(_latex_table(block, ". ".join(trail[level] for level in sorted(trail))))
        else:
            out.append("% " + (block.text if isinstance(block, Code) else block).replace("\n", "\n% "))
    return "\n\n".join(out) + "\n"


def _latex_table(table: Table, caption: str) -> str:
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex_text(caption)}}}", r"\resizebox{\linewidth}{!}{%"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}", r"\toprule", " & ".join(map(_latex_text, table.heads)) + r" \\"]
    lines.append(r"\midrule")
    forms = r"\textbf{{{}}}", r"\textcolor{{gray}}{{{}}}"
    lines += [" & ".join(_marked(cell, *forms, _latex_text) for cell in row) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    lines += [rf"\par\footnotesize {_latex_text(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"])


def _latex_text(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in text)


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body{{font:14px/1.5 system-ui,sans-serif;margin:2rem;background:#fff;color:#222}}p,li{{max-width:60rem}}
.wide{{overflow-x:auto}}table{{border-collapse:collapse;margin:0 0 1rem}}td,th{{padding:4px 10px;text-align:right;white-space:nowrap}}
td:first-child,th:first-child{{text-align:left;position:sticky;left:0;background:inherit}}tr{{background:#fff}}
thead tr{{border-bottom:2px solid #888}}tbody tr:hover{{background:#eef4ff}}th button{{all:unset;cursor:pointer;font-weight:600}}
td.grey{{color:#888}}pre{{overflow-x:auto}}
th button:focus-visible{{outline:2px solid #36c}}th[aria-sort=ascending] button::after{{content:" ▴"}}
th[aria-sort=descending] button::after{{content:" ▾"}}
@media(prefers-color-scheme:dark){{body{{background:#181818;color:#ddd}}
tr{{background:#181818}}tbody tr:hover{{background:#243044}}}}</style>
{body}<script>
for(const table of document.querySelectorAll("table")){{
  const heads=[...table.tHead.rows[0].cells];
  heads.forEach((head,column)=>head.firstChild.onclick=()=>{{
    const up=head.ariaSort==="descending"||(head.ariaSort!=="ascending"&&head.dataset.first==="up");
    heads.forEach(other=>other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort",up?"ascending":"descending");
    const key=row=>row.cells[column].dataset.v??row.cells[column].textContent;
    const empty=row=>key(row)==="";
    const order=(a,b)=>isNaN(key(a))||isNaN(key(b))?key(a).localeCompare(key(b)):key(a)-key(b);
    const rows=[...table.tBodies[0].rows].sort((a,b)=>empty(a)-empty(b)||(up?order(a,b):order(b,a)));
    table.tBodies[0].append(...rows);
  }});
}}</script></html>
"""


def page(blocks: list[Block]) -> str:
    """A click on a head sorts by it, the better end first; empty cells stay last."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Vestige")
    return PAGE.format(title=html.escape(title), body="".join(map(_html, blocks)))


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, str):
        return f"<p>{html.escape(block)}</p>"
    if isinstance(block, Code):
        return f"<pre>{html.escape(block.text)}</pre>"
    heads = "".join(f'<th data-first="{"down" if "↑" in h else "up"}"><button>{html.escape(h)}</button></th>' for h in block.heads)
    rows = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in block.rows)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in block.notes)
    table = f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    return table + (f"<ul>{notes}</ul>" if notes else "")


def _html_cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return f"<td>{html.escape(cell)}</td>"
    key = "" if cell.value is None or cell.value != cell.value else f"{cell.value:.6g}"
    shade = ' class="grey"' if cell.grey else ""
    return f'<td{shade} data-v="{key}">{_marked(cell, "<b>{}</b>", "{}", html.escape)}</td>'


FORMATS = {"md": markdown, "latex": latex, "html": page}


def deliver(text: str, out: Path | None) -> None:
    """To the screen, or to a file whose folder is made."""
    if out is None:
        print(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
