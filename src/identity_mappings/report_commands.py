"""The commands that make pages of records, check and explain them. As in `commands`, each imports what it needs."""

import argparse
from pathlib import Path

from .arguments import SCALE, command, option


@command(SCALE)
def tables(arguments: argparse.Namespace) -> None:
    """make the tables from the records that are there"""
    from .reporting import tables

    tables.write_tables(arguments.scale)


@command(SCALE)
def figures(arguments: argparse.Namespace) -> None:
    """make the figures from the records that are there"""
    from .reporting import figures

    figures.write_figures(arguments.scale)


@command(SCALE)
def report(arguments: argparse.Namespace) -> None:
    """make report.html, the page of tables and figures, from the records that are there"""
    from .reporting import page

    page.write_page(arguments.scale)


@command(SCALE)
def diff(arguments: argparse.Namespace) -> int:
    """compare with the papers; exit status 1 if a cell contradicts them"""
    from .reporting.explain import show_differences

    return show_differences(arguments.scale)


@command(SCALE)
def audit(arguments: argparse.Namespace) -> int:
    """trace every number of the tables to its records; exit status 1 at the first gap"""
    from .reporting import audit

    return audit.audit(arguments.scale)


@command(
    SCALE,
    option("--watch", action="store_true", help="show it every few seconds, until Ctrl-C"),
    option("--json", action="store_true", help="for programs; docs/monitoring.md explains the keys"),
)
def status(arguments: argparse.Namespace) -> None:
    """what is done, running, interrupted, failed and waiting, and how long the rest takes"""
    from .reporting import status

    status.print_status(arguments.scale, arguments.watch, arguments.json)


@command(
    SCALE,
    option("table", help='for example "Table 1", or "he2016, Table 1"'),
    option("row", nargs="?", help="its name, or a part of it (default: all)"),
    option("column", nargs="?", help="(default: all that fit)"),
)
def explain(arguments: argparse.Namespace) -> int:
    """trace a table's cell to its runs, commit, data and parameters"""
    from .reporting import explain

    return explain.print_traces(arguments.scale, arguments.table, arguments.row, arguments.column)


@command(SCALE, option("output", type=Path, metavar="OUT", help="a new folder, or a file that ends in .zip"))
def rocrate(arguments: argparse.Namespace) -> None:
    """write results, parameters, workflow and provenance as an RO-Crate, for an archive"""
    from .reporting import rocrate as crate

    crate.write_crate(arguments.scale, arguments.output)
