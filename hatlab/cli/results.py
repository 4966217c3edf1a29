"""Commands about results that are there: rerun a claim, unpack a store of runs, grade a class."""

from __future__ import annotations

from pathlib import Path

import click

from hatlab.cli import batch
from hatlab.cli.options import results_option

__all__ = ["class_report", "compare", "export", "store", "verify"]


@click.command()
@click.argument("claim", required=False)
@click.option("--run", is_flag=True, help="Rerun also what takes more than ten minutes of training.")
@results_option
def verify(claim: str | None, run: bool, results: Path | None) -> None:
    """Rerun a committed claim on this machine, and print both values as a table to paste into a review.

    CLAIM is PROFILE/FIGURE, or words of a claim. Without it the figures are listed, with what they take.
    """
    from hatlab.batches import verify as rerun

    if claim is None:
        click.echo(rerun.listed(rerun.claims()))
        return
    batch.end_at_sigterm()
    click.echo(rerun.verify(claim, results, run))


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--common", is_flag=True, help="Let what only one of the two has make no difference to the exit status.")
@results_option
def compare(first: str, second: str, common: bool, results: Path | None) -> None:
    """Compare two batches, or two folders of results, run by run or figure by figure.

    FIRST and SECOND are names of batches, their folders, results folders (the last batch of each), or folders of
    figures such as results/quick. Runs are paired by their parameters. What differs is printed: outcomes with the
    interval of the difference, corrected for their number; verdicts; parameters, versions, code, data. The exit status
    is 1 if an outcome or a verdict differs, or something has no pair.

    \b
    hatlab compare night-before night
    hatlab compare results/reference/quick results/quick
    """
    from hatlab.batches import compare as sides

    found = sides.compare(sides.side(first, results), sides.side(second, results))
    click.echo(str(found))
    if not (found.same_in_common if common else found.same):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("name", required=False)
@click.option("--to", "kind", required=True, type=click.Choice(["csv", "tensorboard", "trackio", "mlflow"]))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write into.")
@results_option
def export(name: str | None, kind: str, out: Path, results: Path | None) -> None:
    """Write the runs of batch NAME (the last one) for an experiment tracker, into a new folder.

    Parameters, the series of every table that has epochs or steps, and the last value of every number. Each tracker's
    own library writes: pip install 'hatlab[tensorboard]', 'hatlab[trackio]' or 'hatlab[mlflow]'.
    """
    from hatlab.batches import batches
    from hatlab.batches import export as exports

    found = batches.find(results, name)
    n = exports.export(found, kind, out)
    click.echo(f"{n} of {len(found.runs)} runs written to {out}")
    if n < len(found.runs):
        click.echo(f"{len(found.runs) - n} are not done", err=True)
        raise click.exceptions.Exit(1)


@click.group()
def store() -> None:
    """Look at, and unpack, stores of finished runs (results/reference/PROFILE/runs.zip)."""


@store.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
def verify_store(file: Path) -> None:
    """Compare every member of FILE with its checksum, and list the runs."""
    from hatlab.analysis import store as stores

    for name, manifest in stores.verify(file).items():
        config = manifest["config"]
        click.echo(f"{name}  {manifest['title']}  {config['method']}  c={config['c']:g}  seed={config['seed']}")


@store.command("unpack")
@click.argument("file", type=click.Path(path_type=Path))
@results_option
def unpack_store(file: Path, results: Path | None) -> None:
    """Put the runs of FILE among those of the results folder; runs that are there stay as they are."""
    from hatlab.analysis import store as stores
    from hatlab.support.paths import results_root

    put, there = stores.unpack(file, results if results is not None else results_root())
    click.echo(f"{put} runs unpacked, {there} were there already")


@click.command("class-report")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for the answers of one notebook.")
@click.option("--memory", default=4.0, show_default=True, help="Gigabytes for the answers of one notebook.")
@click.option("--seed", type=int, help="The seed of `make classroom`, where each student has numbers of their own.")
def class_report(folder: Path, timeout: float, memory: float, seed: int | None) -> None:
    """Grade the walkthroughs that students returned in FOLDER: points, and which mistake how many made.

    Students' code is run, each notebook's in a process of its own. The tables are also written to FOLDER/class-report/.
    """
    from hatlab.batches.view import console
    from hatlab.experiments.walkthrough import grading
    from hatlab.support.files import write_table

    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise click.ClickException(f"{folder} has no file that ends in .ipynb: returned notebooks are wanted there")
    try:
        table = grading.grade(paths, timeout, memory, seed)
    except ValueError as error:
        raise click.ClickException(f"{error}: --seed") from None
    points, mistakes = grading.points(table), grading.misconceptions(table)
    out = console(prose=True)
    out.print(points.to_string(), markup=False)
    for row in mistakes.itertuples():
        out.print(f"{row.students} of {len(paths)}, {row.exercise}: {row.said}", markup=False)
    (folder / "class-report").mkdir(exist_ok=True)
    for name, content in (("points", points), ("mistakes", mistakes), ("answers", table)):
        write_table(folder / "class-report", name, content)
    out.print(f"tables in {folder / 'class-report'}", markup=False)
