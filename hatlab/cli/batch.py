"""The commands about batches of notebooks. Thin, as `cli` is."""

from __future__ import annotations

import dataclasses
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hatlab.cli.options import each_once, results_option
from hatlab.config import ConfigError
from hatlab.support.values import values

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from hatlab.batches.batches import Batch
    from hatlab.batches.ledger import Status

__all__ = ["batch", "collect", "end_at_sigterm", "status"]

REFRESH_SECONDS: Final = 1.0
MOST_ROWS: Final = 500  # of a dry run; drawing a row takes longer than planning the run
MOST_REASONS: Final = 5  # of the rows that are not shown
RUN_ID: Final = re.compile(r"[0-9a-f]{12}")
PAUSE_SECONDS: Final = 5.0  # nothing runs for a moment between two runs


def end_at_sigterm() -> None:
    """Have what batch systems, `kill` and a terminal that is closed send end a batch as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not under nohup
            signal.signal(signal.SIGHUP, signal.default_int_handler)


def _lists(ctx: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Read name=values pairs: one value or several with commas between them, a..b for whole numbers."""

    def read(given: str, text: str) -> list[Any]:
        try:
            return values(given)
        except ConfigError as error:
            raise click.BadParameter(f"'{text}': {error}") from None

    return each_once(texts, read, "its values go together, as in seed=1,2")


def _amounts(ctx: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, float]:
    def read(given: str, text: str) -> float:
        try:
            return float(given)
        except ValueError:
            raise click.BadParameter(f"'{text}': {given!r} is no number") from None

    return each_once(texts, read, "a worker has one amount of it")


@click.command()
@click.argument("notebook", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-p",
    "parameters",
    multiple=True,
    metavar="NAME=VALUES",
    callback=_lists,
    help="Set a parameter, or vary it: 0.75, or 0.1,0.75,2.5, or 0..9; lists in brackets; repeatable.",
)
@click.option(
    "--grid", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file with products, zips and lists of parameters (see docs/batches.md).",
)  # fmt: skip
@click.option(
    "--inputs", multiple=True, metavar="PATH",
    help="A file or folder that the runs depend on: all are made again when it has changed; repeatable.",
)  # fmt: skip
@click.option("--name", help="Name of the batch.  [default: made from notebook and parameters]")
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Runs at a time.  [default: one for each core]"
)
@click.option("--scheduler", metavar="ADDRESS", help="Use the workers of this Dask scheduler: tcp://HOST:PORT.")
@click.option(
    "--resources", multiple=True, metavar="NAME=AMOUNT", callback=_amounts,
    help="What each run takes of a scheduler's worker, as in GPU=1; repeatable.",
)  # fmt: skip
@click.option(
    "--retries", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Try a failed run again."
)
@click.option("--timeout", type=float, metavar="S", help="End a run that takes longer, in seconds.")
@click.option("--memory", metavar="SIZE", help="End a run that holds more, as in 4GB.  [default: a fair share]")
@click.option(
    "--stop-after", type=click.IntRange(min=0), metavar="N",
    help="End the batch when N runs failed alike (0: never).  [default: when the first 5 did]",
)  # fmt: skip
@click.option(
    "--notify", multiple=True, metavar="URL",
    help="Send a message at the end to this Apprise address, also from $HATLAB_NOTIFY; repeatable.",
)  # fmt: skip
@click.option("--notify-command", metavar="COMMAND", help="Give this program the message on its standard input.")
@click.option(
    "--stall", type=click.FloatRange(min=0, min_open=True), metavar="S", default=3600.0, show_default=True,
    help="Send the message, too, when nothing has moved for so many seconds.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be run, what is done, and how long it may take.")
@results_option
def batch(
    notebook: Path,
    parameters: dict[str, list[Any]],
    grid: Path | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Run NOTEBOOK once for each combination of the parameters; what is done is kept.

    Everything is checked before the first kernel starts. Each run has a kernel and a folder of its own, in
    results/notebooks. Ctrl-C ends the kernels; the same command goes on where this one was. The exit status is 0 if all
    runs are done.

    \b
    hatlab batch notebooks/02_capacity_usage.ipynb -p dataset=mnist,fashion_mnist -p 'widths=[400, 400]'
    hatlab batch notebooks/10_your_own.ipynb -p c=0.1,0.75,2.5 -p seed=0..9 --workers 2 --dry-run
    """
    fixed = {name: found[0] for name, found in parameters.items() if len(found) == 1}
    over = {name: found for name, found in parameters.items() if len(found) > 1}
    from hatlab.batches import batches
    from hatlab.batches.notices import Notices, from_environment

    options["notify"] = [*options["notify"], *from_environment()]
    if dry_run:
        Notices(options["notify_command"], options["notify"])
        batches.Limits(**{item.name: options[item.name] for item in dataclasses.fields(batches.Limits)})
        planned = batches.plan(
            notebook, grid, parameters=fixed, over=over, name=options["name"], results=options["results"],
            inputs=options["inputs"], here=options["scheduler"] is None,
        )  # fmt: skip
        for warning in planned.warnings:
            click.echo(f"warning: {warning}", err=True)
        _dry_run(planned, options["workers"])
        return
    end_at_sigterm()
    done = batches.batch(notebook, grid, parameters=fixed, over=over, **options)
    click.echo(f"hatlab status {done.name}    hatlab collect {done.name}")
    if not done.done:
        raise click.exceptions.Exit(1)


def _dry_run(planned: Batch, workers: int | None) -> None:
    from hatlab.batches import cost, view
    from hatlab.batches.batches import default_workers

    looked = planned.look()
    todo = [item.run for item in looked if not item.done]
    statuses = {item.run.run_id: item.status for item in looked}
    why = {item.run.run_id: item.why for item in looked}
    view.console().print(view.table(planned, statuses, why, MOST_ROWS))
    if (left := len(looked) - MOST_ROWS) > 0:
        reasons = Counter(item.why or "done" for item in looked[MOST_ROWS:])
        told = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common(MOST_REASONS))
        click.echo(
            f"the first {MOST_ROWS} are shown; the other {left}: {told}{', ...' if len(reasons) > MOST_REASONS else ''}"
        )
    click.echo(str(cost.estimate(planned, todo, workers or default_workers(todo))))
    if (before := cost.last(planned)) is not None:
        click.echo(before.miss())


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Everything that is known, as JSON; NaN and infinities as text.")
@click.option("--once", is_flag=True, help="Print the table once, also on a terminal and while runs are under way.")
@results_option
def status(name: str | None, as_json: bool, once: bool, results: Path | None) -> None:
    """Say where the runs of batch NAME stand; without NAME, those of the batch that was planned last. If NAME is the id
    of a run, print how that ended, and what its cells cost.

    On a terminal the table is live while runs are under way. The exit status is 0 if all runs are done, their outcome
    whole, and 1 if not.

    \b
    done        every artifact that the manifest declares is there, with its checksum
    stale       it was done, and its outcome has been damaged since
    running     it gives signs of life
    queued      it waits, for this call of hatlab batch or the next
    failed      a cell ended in an error; killed: its kernel or its runner was; timed out: it took too long
    """
    from hatlab.batches import batches, causes, cost, view

    if name is not None and (one := _one_run(results, name)) is not None:
        click.echo(one)
        return
    found = batches.find(results, name)
    statuses = found.statuses()
    console = view.console()
    if as_json:
        click.echo(view.as_json(found, statuses))
    elif console.is_terminal and not once and any(one.state == "running" for one in statuses.values()):
        statuses = _follow(found, statuses, console)
    else:
        console.print(view.table(found, statuses))
    if not as_json:
        told = [cost.totals(found, statuses), *causes.lines(found, causes.causes(found, statuses))]
        for line in filter(None, told):
            console.print(line, markup=False)
    if any(one.state != "done" for one in statuses.values()):
        raise click.exceptions.Exit(1)


def _one_run(results: Path | None, run_id: str) -> str | None:
    """Return what is known of one run: how it ended, and what its cells cost; None if `run_id` is no run's id, or a
    batch has that name."""
    from hatlab.batches import batches, post_mortem
    from hatlab.batches.ledger import Entry
    from hatlab.support.paths import results_root

    entry = Entry(Path(results) if results is not None else results_root(), run_id)
    if not RUN_ID.fullmatch(run_id) or run_id in batches.names(results) or not entry.folder.is_dir():
        return None
    status, written = entry.status(), entry.folder / post_mortem.FILE
    if status.state not in ("queued", "running", "done") and written.is_file():
        return written.read_text(encoding="utf-8").rstrip()
    return post_mortem.text(run_id, f"{status.state}  {status.reason}".rstrip(), "", "", [], status.cells).rstrip()


def _follow(found: Batch, statuses: dict[str, Status], console: Console) -> dict[str, Status]:
    """Show the table until nothing runs any more, or Ctrl-C."""
    from rich.live import Live

    from hatlab.batches import view
    from hatlab.batches.ledger import Entry

    def shown() -> Text:
        return view.table(found, watch.statuses, most=max(1, console.height - 4))

    watch, seen = view.Watch(found, statuses), time.monotonic()
    try:
        with Live(shown(), console=console, auto_refresh=False, transient=True) as live:
            while time.monotonic() - seen < PAUSE_SECONDS and watch.states["done"] < len(found.runs):
                time.sleep(REFRESH_SECONDS)
                watch.look(Entry.status, known=["done"])  # whose artifacts need not be hashed every second
                live.update(shown(), refresh=True)
                if watch.running:
                    seen = time.monotonic()
    finally:
        console.print(view.table(found, watch.statuses))
    return watch.statuses


@click.command()
@click.argument("name", required=False)
@results_option
def collect(name: str | None, results: Path | None) -> None:
    """Gather the tables of batch NAME, of the runs that are done, into one Parquet file for each.

    They land in results/batches/NAME. The exit status is 1 if a run is missing in them: it is not done, or it left no
    table, or one that could not be gathered.
    """
    from hatlab.batches import batches, collecting, ledger

    found = batches.find(results, name)
    collected = collecting.gather(found)
    for path in collecting.write(found, collected):
        click.echo(f"{path}  {len(collected.tables[path.stem])} rows")
    for problem in collected.problems:
        click.echo(problem, err=True)
    if collected.without:
        click.echo(
            f"{len(collected.without)} of {len(found.runs)} runs are done, but left no table in their folders in "
            f"{found.results / ledger.FOLDER}: {', '.join(collected.without)}. A table gets there by "
            "artifacts.save(figure, ..., profile=profile, results=results)",
            err=True,
        )
    if collected.missing:
        click.echo(f"{len(collected.missing)} of {len(found.runs)} runs are missing: they are not done", err=True)
    if not collected.whole:
        raise click.exceptions.Exit(1)
