"""The command `hatlab`. Thin: it reads options, calls the library, and turns errors into one message.

Exit codes: 0 done, 1 failed, 2 a parameter or option that cannot be used, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

import click
import yaml

from hatlab._version import __version__
from hatlab.cli import batch, results
from hatlab.cli.options import axes_of, config_option, device_option, parameter_option, results_option
from hatlab.config import ConfigError, RunConfig
from hatlab.support.streams import guard_standard_streams, tell_lost_output
from hatlab.support.values import read_yaml

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["cli", "main"]

INTERRUPTED: Final = 130


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Give known errors as one message; a defect of the program keeps its traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nstopped; the same command again goes on where this one was", err=True)
            ctx.exit(INTERRUPTED)
        except ConfigError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except Exception as error:
            if not type(error).__module__.startswith("hatlab.") and not isinstance(error, OSError):
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hatlab")
def cli() -> None:
    """Hard Attention to the Task: rerun its capacity-usage curves, change a parameter, look again."""


@cli.command()
@parameter_option
@config_option
@results_option
@device_option
def run(parameters: dict[str, Any], config: Path | None, results: Path | None, device: str) -> None:
    """Train one run and print what it learnt. `hatlab parameters` lists what can be set.

    \b
    hatlab run -p dataset=mnist -p 'widths=[400, 400]' -p c=0.5
    """
    given = _given(config, parameters)

    from hatlab.analysis import metrics, summary
    from hatlab.support.console import default_progress
    from hatlab.training import runs

    with default_progress() as progress:
        done = runs.run(given, results=results, device=device, progress=progress)
    table = summary.by_task(done)
    click.echo(f"{summary.describe(done)}, c = {given.c:g}, seed {given.seed}: accuracy and usage in %")
    click.echo(table.to_string(index=False, float_format="%.1f", na_rep=""))
    transfer = metrics.backward_transfer(done.accuracy)
    click.echo(f"average accuracy {metrics.average_accuracy(done.accuracy):.1%}")
    if not math.isnan(transfer):
        click.echo(f"backward transfer {100 * transfer:+.1f} percentage points")
    click.echo(f"capacity usage {table['usage'].iloc[-1]:.1f}%")
    click.echo(f"saved in {done.folder}")


@cli.command()
@parameter_option
@click.option(
    "--over",
    "axes",
    multiple=True,
    metavar="NAME=VALUES",
    callback=axes_of,
    help="Vary a parameter: a list, or a..b for the whole numbers from a to b; repeatable.  [required]",
)
@config_option
@results_option
@device_option
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train at most N runs side by side; 1: one after the other.  [default: as many as is fastest]",
)
def sweep(
    parameters: dict[str, Any],
    axes: dict[str, list[Any]],
    config: Path | None,
    results: Path | None,
    device: str,
    replicas: int | None,
) -> None:
    """Train a run for each combination of the values given by --over, the last one varying fastest.

    Runs train side by side where they can. Those that are finished are loaded, those that were stopped go on. What all
    share is set with -p or --config.

    \b
    hatlab sweep -p dataset=mnist -p 'widths=[400, 400]' --over 'c=[0, 0.1, 0.75, 2.5]' --over seed=0..9
    hatlab sweep -p max_epochs=5 --over 'widths=[[100, 100], [400, 400]]' --over 'mode=[original, cross]'
    """
    given = _given(config, parameters)
    if both := next((name for name in axes if name in parameters), None):
        raise ConfigError(
            f"in --over: {both} is to be varied, and -p sets it to {_typed(parameters[both])} for all runs; "
            f"allowed is one of the two"
        )
    try:
        configs = given.grid(**axes)
    except ConfigError as error:
        raise ConfigError(f"in --over: {error}") from None

    from hatlab.analysis import summary
    from hatlab.training import runs

    done = runs.sweep(configs, results=results, device=device, replicas=replicas)
    table = summary.by_run(done, list(axes))
    titles = {summary.describe(run) for run in done}
    units = "in %, backward_transfer in percentage points" if table["backward_transfer"].notna().any() else "in %"
    click.echo(f"{titles.pop() if len(titles) == 1 else f'{len(done)} runs'}: after the last task, {units}")
    _print(table)
    if len(axes.get("seed", ())) > 1:
        click.echo(f"\nmean over seeds [95% t interval], {units}")
        _print(summary.over_seeds(table))
    click.echo(f"saved in {done[0].folder.parent}")


def _print(table: pd.DataFrame) -> None:
    """Print a sweep's table: parameters as people type them, an interval in brackets, no column without a number."""
    shown: dict[str, Any] = {}
    for name in map(str, table):
        if name in RunConfig.model_fields:
            shown[name] = [_typed(value) for value in table[name]]
        elif f"{name}_low" in table:
            triples = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
            shown[name] = [None if math.isnan(m) else f"{m:.1f} [{low:.1f}, {high:.1f}]" for m, low, high in triples]
        elif not name.endswith(("_low", "_high")):
            shown[name] = table[name]
    readable = type(table)(shown).dropna(axis="columns", how="all")
    click.echo(readable.to_string(index=False, float_format="%.1f", na_rep=""))


def _typed(value: Any) -> str:
    """Return the value of a parameter as it is typed on the command line."""
    if isinstance(value, str):
        return value
    return f"{value:.15g}" if isinstance(value, float) else json.dumps(value)


def _given(config: Path | None, parameters: dict[str, Any]) -> RunConfig:
    """Return what the file sets, and over it what -p sets."""
    base = RunConfig.parse(_read(config), str(config)) if config else RunConfig()
    return RunConfig.parse({**base.model_dump(), **parameters}, "-p") if parameters else base


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of bytes that are no text, too
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no parameters: lines of the form name: value are wanted")
    return content


@cli.command()
@click.option(
    "--profile", default="quick", show_default=True, help="Which set: smoke, quick, tight, mnist, cnn, paper, report."
)
@click.option("--only", multiple=True, metavar="FIGURE", help="Only this figure of the profile; repeatable.")
@parameter_option
@results_option
@click.option("--device", metavar="auto|cpu|cuda", help="Where to train.  [default: auto]")
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Figures at a time.  [default: one for each core]"
)
@click.option("--from", "source", metavar="reference|FILE", help="Load finished runs from a store, and train nothing.")
def reproduce(
    profile: str,
    only: tuple[str, ...],
    parameters: dict[str, Any],
    results: Path | None,
    device: str | None,
    workers: int | None,
    source: str | None,
) -> None:
    """Rerun the figures of notebooks/figures.yaml, into results/PROFILE/FIGURE, and compare them with the paper.

    The figures are a batch, reproduce-PROFILE: everything is checked before the first notebook starts, what is done is
    kept, Ctrl-C leaves the rest for the same command, `hatlab status` says where it stands. At the end stand the
    verdicts of all figures of the profile, also in results/PROFILE/verdicts.csv. The exit status is 1 if a notebook
    failed; that a number differs from the paper's is a result.
    """
    from hatlab.batches.reproduce import reproduce as execute

    batch.end_at_sigterm()
    given = {**parameters, **({"device": device} if device else {})}
    execute(profile, only, given, results, workers, source=source)


@cli.command()
def parameters() -> None:
    """List every parameter of a run: its name, default and meaning."""
    width = max(len(name) for name in RunConfig.model_fields)
    for name, field in RunConfig.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        text = yaml.safe_dump(default, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        allowed = f"{' | '.join(choices)}; " if choices else ""
        click.echo(f"{name:{width}}  {text:14}  {allowed}{field.description}")


@cli.group()
def data() -> None:
    """Look at, download and check the image data sets."""


@data.command()
def status() -> None:
    """Say which data sets are here, and where."""
    from hatlab.data import datasets

    for item in datasets.status():
        size = f"{item.size / 1e6:.1f} MB" if item.size else ""
        click.echo(f"{item.name:14}  {item.state:8}  {size:>9}  {item.where}")


@data.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Download what is missing of data set NAME, and check it."""
    from hatlab.data import datasets

    files = datasets.fetch(name)
    click.echo("\n".join(map(str, files)) or f"{name} needs no download")


@data.command()
@click.argument("name")
def verify(name: str) -> None:
    """Compare every file of data set NAME with its known checksum."""
    from hatlab.data import datasets

    checks = datasets.verify(name)
    for check in checks:
        click.echo(f"{check.file}  {'ok' if check.ok else check.problem}")
    if not all(check.ok for check in checks):
        raise click.exceptions.Exit(1)


for command in (
    batch.batch, batch.status, batch.collect, results.compare, results.export, results.store, results.verify,
    results.class_report,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Entry point of the command."""
    guard_standard_streams()
    try:
        cli()
    finally:
        tell_lost_output()
