"""The command reproduce."""

from __future__ import annotations

from typing import Annotated

import typer

from ddkit.cli import options as o
from ddkit.cli.output import command, document, next_step, say, table
from ddkit.errors import OptionError


@command("Use")
def reproduce(
    name: Annotated[str | None, typer.Argument(help="a table or figure; without one, they are listed")] = None,
    data: o.Data = None,
    teacher: o.Teacher = None,
    scale: Annotated[str, typer.Option("--scale", help="cpu (CIFAR-10, ConvNet-3) or paper")] = "cpu",
    rows: Annotated[str | None, typer.Option("--rows", help="only these rows, separated by commas")] = None,
    work: Annotated[str, typer.Option("--work", help="folder of sets and results, continued")] = "reproduced",
    val: o.Val = None,
    epochs: o.Epochs = None,
    sets: Annotated[int | None, typer.Option("--sets", help="sets of each row (default: the scale's)")] = None,
    runs: Annotated[int | None, typer.Option("--runs", help="students of each set (default: the scale's)")] = None,
    settings: o.Settings = None,
    workers: o.Workers = None,
    yes: o.Yes = False,
) -> None:
    """Run a table of CUDD, RDED or CDA and set the results beside the paper's: agree, disagree or undecided."""
    from ddkit.core.serialization import parse_settings, to_plain
    from ddkit.evaluation.published import find_table, table_names
    from ddkit.evaluation.reproducing import reproduce as run

    if name is None:
        known = [(one, find_table(one)) for one in table_names()]
        listed = [(one, f"{found.title} ({found.paper}); {len(found.row)} rows") for one, found in known]
        say(table(("table", "about"), listed))
        document([{"name": one, "about": about} for one, about in listed])
        next_step("ddkit reproduce cudd-table5 --data SOURCE --teacher T")
        return
    if data is None or teacher is None:
        raise OptionError(f"reproduce {name} needs --data SOURCE and --teacher T, as `ddkit distill` takes them")
    found = run(
        name, data=data, teacher=teacher, scale=scale, rows=None if rows is None else rows.split(","), work=work,
        val=val, epochs=epochs, sets=sets, runs=runs, settings=parse_settings(settings or []), yes=yes,
        workers=workers,
    )  # fmt: skip
    lines = []
    for one in found.rows:
        r, paper = one.result, ", ".join(f"{cell} {value:g}" for cell, value in one.row.paper.items())
        ours = one.why if r is None else f"{r.mean:.2f} ± {r.std:.2f}"
        lines.append([one.row.name, one.row.about or one.row.method, ours or "not run",
                      f"{r.n_sets} x {r.n_students // r.n_sets}" if r else "-", paper or "-"])  # fmt: skip
    say(f"{found.table.title} ({found.table.paper})")
    say(table(("row", "about", "ours, %", "sets x students", "the paper's"), lines))
    for v in found.verdicts:
        d = v.difference
        ours = "-" if d is None else f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}], {d.pairs} pairs"
        say(f"{v.verdict:10} {v.about}: {v.better} minus {v.worse} {ours} (paper {v.paper})")
    if found.table.note:
        say(found.table.note)
    document(to_plain(found) | {"file": str(found.file)})
    next_step(f"ddkit report {work}/sets/*/")
