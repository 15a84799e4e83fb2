"""`vestige reproduce`: a published table as jobs of our grid, and our numbers compared with the printed ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from vestige.bench.papers import mapping, planning, published
from vestige.bench.papers.mapping import Absent, PaperMap, PaperTable, lacks
from vestige.bench.papers.planning import TablePlan
from vestige.bench.places import config_folders, results, use_config_folders
from vestige.bench.reports.render import FORMATS, Block, Code, Heading, deliver
from vestige.bench.run.user_folders import check_folders

SHOWN = 8  # sentences about what is missing, in the plan of one table


def main(argv: list[str]) -> int:
    """Exit code 0 for a list, a plan and a comparison; of --run, the worst of its commands."""
    arguments, more = _parser().parse_known_args(argv)
    if any("=" in word and not word.startswith("-") for word in more):
        raise ValueError(
            f"{' '.join(more)} changes settings of the published table, so the result would not be a reproduction. Leave it out, or "
            f"run your own jobs: vestige run {' '.join(more)} ... Only --model may differ, and the comparison says so at every number."
        )
    if more:
        _parser().error(f"unrecognized arguments: {' '.join(more)}")
    if arguments.config_dir:
        use_config_folders([arguments.config_dir])
    check_folders(config_folders())
    if not arguments.paper:
        print(listing(arguments.config_dir))
        return 0
    paper = _paper(arguments.paper)
    rows = published.load(paper.paper)
    tables = _chosen(paper, arguments.table)
    plans = [planning.plan(paper, t, rows, arguments.model, arguments.config_dir, arguments.check) for t in tables]
    if arguments.run:
        return _run(plans, arguments.config_dir)
    deliver(_text(paper, plans, arguments), arguments.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vestige reproduce", description=__doc__)
    parser.add_argument("paper", nargs="?", help="a file of results/published; without it: the list of papers and tables")
    parser.add_argument("--table", help="only tables whose name contains this")
    parser.add_argument("--model", help="a model of conf/model in place of the paper's, for example emoji")
    parser.add_argument("--format", choices=(*FORMATS, "csv"), default="md", help="csv: one row per published value")
    parser.add_argument("--records", type=Path, default=results() / "records")
    parser.add_argument("--store", type=Path, action="append", help="folder of stored scores (repeatable; the first that has a score wins)")
    parser.add_argument("--config-dir", type=Path, help="also use the protocols, methods and concepts of this folder")
    parser.add_argument("--check", action="store_true", help="also check the weights of judges and extractors (loads torch, but no model)")
    parser.add_argument("--run", action="store_true", help="run the plan's commands")
    parser.add_argument("--out", type=Path, help="write to this file instead of the screen")
    return parser


def _paper(name: str) -> PaperMap:
    if name in mapping.mapped():
        return mapping.load(name)
    published.load(name)  # an unknown name is answered with near ones
    raise ValueError(
        f"{name!r} has published values (results/published/{name}.csv) but no mapping to our grid. Write conf/reproduce/{name}.yaml, "
        f"or choose one of: {', '.join(mapping.mapped())}."
    )


def _chosen(paper: PaperMap, wanted: str | None) -> list[PaperTable]:
    tables = {name: table for name, table in paper.tables.items() if wanted is None or wanted.lower() in name.lower()}
    if not tables:
        raise ValueError(f"{paper.paper!r} has no table {wanted!r}. Tables: {'; '.join(paper.tables)}.")
    mapped = [table for table in tables.values() if isinstance(table, PaperTable)]
    if not mapped:
        reasons = {name: table.reason for name, table in tables.items() if isinstance(table, Absent)}
        raise ValueError("; ".join(f"table {name!r} cannot be run: {reason}" for name, reason in reasons.items()) + ".")
    return mapped


# The list


def listing(extra: Path | None = None) -> str:
    """Every paper and table: how many values, how many of them our methods, concepts and metrics cover, by which protocol."""
    lines = [f"{'paper':<27} {'values':>6} {'covered':>7}  trust  table (protocol)"]
    for name in published.papers():
        rows = published.load(name)
        known = name in mapping.mapped()
        trust = "".join(sorted({row.trust for row in rows}))
        mark, note = ("", "") if known else ("-", "not mapped to our grid")
        lines.append(f"{name:<27} {len(rows):>6} {mark:>7}  {trust:<5}  {note}".rstrip())
        if known:
            paper = mapping.load(name)
            lines += [_table_line(paper, title, table, rows, extra) for title, table in paper.tables.items()]
    hint = "covered: values whose method and metric exist in Vestige. Next: vestige reproduce PAPER [--table T] [--model emoji]"
    return "\n".join([*lines, "", hint])


def _table_line(paper: PaperMap, title: str, table: PaperTable | Absent, rows: list, extra: Path | None) -> str:
    own = [row for row in rows if row.table == title]
    if isinstance(table, Absent):
        return f"{'':<27} {len(own):>6} {'-':>7}         {title}: {table.reason}"
    covered = sum(not planning.uncovered(paper, table, row, paper.models.get(row.model), extra) for row in own)
    gone = any(lacks("concept", c, extra) for jobs in table.concepts.values() if isinstance(jobs, list) for c in jobs)
    protocol = table.protocol or "no protocol"
    absent = ", not in Vestige" if table.protocol and lacks("protocol", table.protocol, extra) else ""
    concepts = "; concepts not in Vestige" if gone else ""
    return f"{'':<27} {len(own):>6} {covered:>7}         {title} ({protocol}{absent}{concepts})"


# The plan and what was measured


def _text(paper: PaperMap, plans: list[TablePlan], arguments: argparse.Namespace) -> str:
    from vestige.bench.papers import comparison
    from vestige.bench.reports.stores import places_of_scores

    measured = comparison.Measured(arguments.records, *places_of_scores(arguments.records, arguments.store))
    rows = {plan.table.name: comparison.compare(paper, plan, measured, arguments.model, arguments.config_dir) for plan in plans}
    if arguments.format == "csv":
        return comparison.as_csv([row for part in rows.values() for row in part])
    blocks: list[Block] = [Heading(1, f"{paper.title}: our numbers and the published ones")]
    for plan in plans:
        blocks += [Heading(2, plan.table.name), *_plan(plan, arguments)]
        blocks += comparison.blocks(rows[plan.table.name], arguments.records)
    return FORMATS[arguments.format](blocks)


def _plan(plan: TablePlan, arguments: argparse.Namespace) -> list[Block]:
    blocks: list[Block] = []
    if plan.work:
        commands = "\n".join(work.command(arguments.config_dir) for work in plan.work)
        blocks += ["Run:", Code(commands)]
        amount = f"{plan.images:,} images, about {_time(plan)}" if plan.images else "images not known"
        blocks.append(f"Cost: {plan.jobs} jobs, {amount}. Assumed: {'; '.join(plan.assumed)}.")
    else:
        blocks.append("No job of this table can be run; see below.")
    if plan.work:
        lost = [text.rstrip(".") for text in plan.missing] or ["nothing"]
        more = f"; and {len(lost) - SHOWN} more like these" if len(lost) > SHOWN else ""
        judges = "" if arguments.check else " The weights of judges and extractors were not checked: add --check."
        blocks.append(f"Missing on this machine: {'; '.join(lost[:SHOWN])}{more}.{judges}")
    if plan.uncovered:
        reasons = dict.fromkeys(plan.uncovered.values())
        words = {why: [word for word, other in plan.uncovered.items() if other == why] for why in reasons}
        blocks.append("Not covered: " + "; ".join(f"{', '.join(some)} ({why})" for why, some in words.items()) + ".")
    return blocks


def _time(plan: TablePlan) -> str:
    machine = "CPU" if all(planning.domain_of(work.model) == "emoji" for work in plan.work) else "GPU"
    hours = plan.seconds / 3600
    if hours < 1.5 / 60:
        return f"a {machine}-minute"
    return f"{60 * hours:.0f} {machine}-minutes" if hours < 1 else f"{hours:,.{0 if hours >= 10 else 1}f} {machine}-hours"


def _run(plans: list[TablePlan], extra: Path | None) -> int:
    """The plan's commands one after the other, as if typed. A job that lacks something is refused by the run itself, with its reason."""
    from vestige.bench.run import sweep

    work = [part for plan in plans for work in plan.work if (part := work.runnable(extra))]
    if not work:
        raise ValueError("no job of these tables can be run; the plan (without --run) says why.")
    return max(sweep.main("run", [*(["--config-dir", str(extra)] if extra else []), *each.words()]) for each in work)
