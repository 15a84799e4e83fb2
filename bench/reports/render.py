"""A report's blocks as Markdown, LaTeX (booktabs) or one HTML file that sorts its tables by itself."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from pathlib import Path

from vestige.bench.reports.page import framed


@dataclass(frozen=True)
class Cell:
    """text as shown; value is what HTML sorts by; best: its interval separates it from every other method's.

    grey: not comparable with its neighbours; Markdown, which has no grey, puts it in parentheses.
    """

    text: str
    value: float | None = None
    best: bool = False
    grey: bool = False


def lost(value: float | None) -> bool:
    """As pd.isna for one number, at a tenth of its time: a table asks some ten thousand times."""
    return value is None or value != value


def percent(value: float | None) -> Cell:
    return share(value, None, None)


def share(value: float | None, low: float | None, high: float | None, mark: str = "", best: bool = False) -> Cell:
    """A share in percent with its interval, where it has one, and what `mark` says of it."""
    if value is None or lost(value):
        return Cell("n/a", value)
    spread = "" if low is None or high is None or lost(low) else f" [{100 * low:.0f}, {100 * high:.0f}]"
    return Cell(f"{100 * value:.0f}{spread}{mark}", value, best)


Row = list[Cell | str]


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Table:
    """heads end with an arrow where a direction is better; notes stand below."""

    heads: list[str]
    rows: list[Row]
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


SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹"
LATEX = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "≈": r"$\approx$", "†": r"$\dagger$", "±": r"$\pm$", "≤": r"$\leq$", "<": r"$<$"}
LATEX |= {digit: rf"\textsuperscript{{{k}}}" for k, digit in enumerate(SUPERSCRIPT)}


def latex(blocks: list[Block]) -> str:
    """For \\input: one table environment per table, captioned by its headings. Needs \\usepackage{booktabs,graphicx,xcolor}."""
    out = ["% needs \\usepackage{booktabs,graphicx,xcolor}"]
    trail: dict[int, str] = {}
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


# A click on a head sorts by it, the better end first; empty cells stay last.
SORTING = """
for(const table of document.querySelectorAll("table")){
  const heads=[...table.tHead.rows[0].cells];
  heads.forEach((head,column)=>head.firstChild.onclick=()=>{
    const up=head.ariaSort==="descending"||(head.ariaSort!=="ascending"&&head.dataset.first==="up");
    heads.forEach(other=>other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort",up?"ascending":"descending");
    const key=row=>row.cells[column].dataset.v??row.cells[column].textContent;
    const empty=row=>key(row)==="";
    const order=(a,b)=>isNaN(key(a))||isNaN(key(b))?key(a).localeCompare(key(b)):key(a)-key(b);
    const rows=[...table.tBodies[0].rows].sort((a,b)=>empty(a)-empty(b)||(up?order(a,b):order(b,a)));
    table.tBodies[0].append(...rows);
  });
}"""
HINT = '<p class="grey">A click on the head of a column sorts its table.</p>'
LONG = 30  # characters, of a text that may be broken into lines
MANY_NOTES = 8  # more than these are folded, all but the first few
FIRST_NOTES = 4


def page(blocks: list[Block]) -> str:
    """One file: links to its parts where there are many, tables that sort by themselves."""
    heads = {k: block for k, block in enumerate(blocks) if isinstance(block, Heading)}
    title = next((head.text for head in heads.values()), "Vestige")
    parts = [_html(block, k) for k, block in enumerate(blocks)]
    hint = HINT if any(isinstance(block, Table) for block in blocks) else ""
    parts.insert(next(iter(heads), -1) + 1, _contents(heads) + hint)
    return framed(title, "".join(parts), SORTING)


def _contents(heads: dict[int, Heading]) -> str:
    """One line of links for each heading of the first level; the page's own title needs none."""
    if sum(head.level == 2 for head in heads.values()) < 3:
        return ""
    lines: list[str] = []
    for k, head in heads.items():
        link = f'<a href="#part{k}">{html.escape(head.text)}</a>'
        if head.level == 1:
            lines.append(f"<b>{link}</b>" if lines else "")
        elif head.level == 2:
            lines[-1:] = [lines[-1] + link] if lines else [link]
    return f"<nav>{''.join(f'<p>{line}</p>' for line in lines if line)}</nav>"


def _html(block: Block, k: int) -> str:
    if isinstance(block, Heading):
        return f'<h{block.level} id="part{k}">{html.escape(block.text)}</h{block.level}>'
    if isinstance(block, str):
        return f"<p>{_html_text(block)}</p>"
    if isinstance(block, Code):
        return f"<pre>{''.join(f'<code>{html.escape(line)}</code>' for line in block.text.splitlines())}</pre>"
    return _html_table(block)


def _html_table(table: Table) -> str:
    numbers = [any(isinstance(row[k], Cell) for row in table.rows) for k in range(len(table.heads))]
    heads = "".join(map(_html_head, table.heads, numbers))
    rows = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in table.rows)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{_html_notes(table.notes)}'


def _html_head(head: str, of_numbers: bool) -> str:
    text = html.escape(head).replace("_", "_<wbr>").replace(" ↑", "&nbsp;↑").replace(" ↓", "&nbsp;↓")
    return f'<th{_kinds(text=not of_numbers)} data-first="{"down" if "↑" in head else "up"}"><button title="sort">{text}</button></th>'


def _html_notes(notes: list[str]) -> str:
    shown = notes if len(notes) <= MANY_NOTES else notes[:FIRST_NOTES]
    rest = notes[len(shown) :]
    more = f"<details><summary>{len(rest)} more notes</summary>{_html_list(rest)}</details>" if rest else ""
    return _html_list(shown) + more


def _html_list(notes: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{_html_text(note)}</li>' for note in notes)}</ul>" if notes else ""


def _html_text(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _html_cell(cell: Cell | str) -> str:
    """Texts stand left, numbers right. Only a cell has a value to sort by; it may be empty."""
    if isinstance(cell, str):
        return f"<td{_kinds(text=True, long=_is_long(cell))}>{html.escape(cell)}</td>"
    key = "" if cell.value is None or cell.value != cell.value else f"{cell.value:.6g}"
    long = _is_long(cell.text)
    return f'<td{_kinds(text=long, long=long, grey=cell.grey)} data-v="{key}">{_marked(cell, "<b>{}</b>", "{}", html.escape)}</td>'


def _is_long(text: str) -> bool:
    return len(text) > LONG and " " in text


def _kinds(**kinds: bool) -> str:
    chosen = [name for name, holds in kinds.items() if holds]
    return f' class="{" ".join(chosen)}"' if chosen else ""


def raised(number: int) -> str:
    """A footnote's number: brackets would look like an interval."""
    return "".join(SUPERSCRIPT[int(digit)] for digit in str(number))


FORMATS = {"md": markdown, "latex": latex, "html": page}


def deliver(text: str, out: Path | None) -> None:
    """To the screen, or to a file whose folder is made."""
    if out is None:
        print(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
