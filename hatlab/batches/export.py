"""The runs of a batch for experiment trackers: TensorBoard, Trackio, MLflow, each written by its own library, and CSV.

A run has its parameters, the series of its tables that have epochs or steps, named `table/column` (and the layer, or
whatever text tells rows apart), and the last value of every number, `table.column` as `hatlab.batches.compare` has it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from hatlab.batches.compare import COUNTING, outcomes
from hatlab.batches.plans import Batch
from hatlab.config import ConfigError
from hatlab.support.tables import REFUSALS, scalar

__all__ = ["KINDS", "Exported", "export", "runs"]

ALONG: Final = ("epoch", "step")


class Exported(NamedTuple):
    """One run that is done.

    Attributes:
        run_id: its id.
        parameters: all that were set or have defaults, but places.
        series: name -> values, in the order of the table's rows.
        last: name -> value after the last task, epoch and step.
    """

    run_id: str
    parameters: dict[str, Any]
    series: dict[str, list[float]]
    last: dict[str, float]


def runs(batch: Batch) -> list[Exported]:
    """Return the runs of a batch that are done."""
    found = []
    for run in batch.runs:
        entry = batch.entry(run)
        if entry.status().state != "done":
            continue
        paths = {n.removesuffix(".parquet"): entry.folder / n for n in entry.artifacts() if n.endswith(".parquet")}
        series = {name: values for table, path in paths.items() for name, values in _series(table, path, run.values)}
        last = {f"{table}.{column}": value for (table, column), value in outcomes(paths, run.values).items()}
        found.append(Exported(run.run_id, {n: scalar(v) for n, v in run.values.items()}, series, last))
    return found


def _series(name: str, path: Path, parameters: Iterable[str]) -> Iterable[tuple[str, list[float]]]:
    try:
        table = pd.read_parquet(path)
    except (OSError, *REFUSALS):
        return
    if not any(column in table for column in ALONG):
        return
    numbers = [c for c in table if is_numeric_dtype(table[c]) and not is_bool_dtype(table[c])]
    counting = {*COUNTING, *parameters}
    texts = [c for c in table if c not in numbers and c != "run" and table[c].nunique() > 1]
    groups = table.groupby(texts, sort=False, observed=True) if texts else [((), table)]
    for key, part in groups:
        for column in numbers:
            if column not in counting:
                yield "/".join([name, str(column), *map(str, key)]), part[column].astype(float).tolist()


def export(batch: Batch, kind: str, out: Path) -> int:
    """Write the runs that are done into a new folder, and return how many there are.

    Args:
        batch: which runs.
        kind: one of `KINDS`.
        out: made; must be empty if it is there.

    Raises:
        ConfigError: an unknown kind, its library is not installed, or the folder is not empty.
    """
    if kind not in KINDS:
        raise ConfigError(f"--to {kind}: allowed are {', '.join(KINDS)}")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: the folder is not empty; a new one is wanted")
    library, write = KINDS[kind]
    if importlib.util.find_spec(library) is None:
        raise ConfigError(f"--to {kind} needs {library}: pip install 'hatlab[{kind}]'")
    found = runs(batch)
    out.mkdir(parents=True, exist_ok=True)
    write(batch.name, found, out.absolute())
    return len(found)


def _csv(name: str, found: list[Exported], out: Path) -> None:
    rows = [{"run": one.run_id} | one.parameters | one.last for one in found]
    pd.DataFrame(rows).to_csv(out / "runs.csv", index=False)
    values = [
        (one.run_id, series, step, value)
        for one in found
        for series, several in one.series.items()
        for step, value in enumerate(several)
    ]
    pd.DataFrame(values, columns=["run", "series", "step", "value"]).to_csv(out / "series.csv", index=False)


def _tensorboard(name: str, found: list[Exported], out: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for one in found:
        with SummaryWriter(str(out / one.run_id)) as writer:
            for series, values in one.series.items():
                for step, value in enumerate(values):
                    writer.add_scalar(series, value, step)
            plain = {
                n: v if isinstance(v, bool | int | float | str) else json.dumps(v) for n, v in one.parameters.items()
            }
            writer.add_hparams(plain, one.last, run_name=".")


def _trackio(name: str, found: list[Exported], out: Path) -> None:
    os.environ["TRACKIO_DIR"] = str(out)  # read once, when it is imported
    import trackio

    if str(trackio.TRACKIO_DIR) != str(out):
        raise ConfigError("Trackio writes into one folder for each Python process: export in a new one")
    for one in found:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of each run
            _one_trackio(trackio, name, one)


def _one_trackio(trackio: Any, name: str, one: Exported) -> None:
    run = trackio.init(project=name, name=one.run_id, config=one.parameters, auto_log_gpu=False, auto_log_cpu=False)
    longest = max(map(len, one.series.values()), default=0)
    for step in range(longest):
        run.log({n: values[step] for n, values in one.series.items() if step < len(values)}, step=step)
    run.log(one.last, step=longest)
    trackio.finish()


def _mlflow(name: str, found: list[Exported], out: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.create_experiment(name, artifact_location=(out / "artifacts").as_uri())
    for one in found:
        run = client.create_run(experiment, run_name=one.run_id).info.run_id
        params = [Param(n, str(value)[:500]) for n, value in one.parameters.items()]
        metrics = [
            Metric(_plain(series), value, 0, step)
            for series, values in one.series.items()
            for step, value in enumerate(values)
            if math.isfinite(value)
        ]
        metrics += [Metric(_plain(n), value, 0, 0) for n, value in one.last.items() if math.isfinite(value)]
        for start in range(0, max(1, len(metrics)), 900):  # of which a call takes a thousand
            client.log_batch(run, metrics[start : start + 900], [] if start else params)
        client.set_terminated(run)


def _plain(name: str) -> str:
    """A metric's name as MLflow takes it."""
    return "".join(c if c.isalnum() or c in "_-./ :" else "_" for c in name)


# kind -> the library that writes it, and how
KINDS: Final[dict[str, tuple[str, Callable[[str, list[Exported], Path], None]]]] = {
    "csv": ("pandas", _csv),
    "tensorboard": ("tensorboard", _tensorboard),
    "trackio": ("trackio", _trackio),
    "mlflow": ("mlflow", _mlflow),
}
