"""The runs of notebooks with their parameters, each checked as far as it can be before a kernel starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hatlab.batches.dependencies import dependencies
from hatlab.batches.grids import Point
from hatlab.batches.ledger import NotebookRun
from hatlab.batches.notebook import Notebook
from hatlab.config import ConfigError, RunConfig
from hatlab.support.provenance import library_version

__all__ = ["runs_of"]

MOST_PROBLEMS: Final = 20  # of one message


def runs_of(
    wanted: Sequence[tuple[Notebook, Point]],
    here: bool = True,
    images: bool = True,
    inputs: Mapping[str, str] | None = None,
) -> list[NotebookRun]:
    """Return a run for each notebook and its parameters, in order, all checked as `plan` does.

    Args:
        wanted: notebooks, and the parameters that are to be set.
        here: whether the runs are made on this machine, so that their device has to be there.
        images: False if no image is to be read for it: what depends on them is not checked, and `data` is empty.
        inputs: file -> checksum of what they depend on beside the modules that they import.

    Raises:
        ConfigError: naming everything that is wrong with them, each problem once.
    """
    version, checks = library_version(), _Checks(here)
    imported = {notebook: dependencies(notebook, Path.cwd()) for notebook in dict.fromkeys(n for n, _ in wanted)}
    if misplaced := [problem for notebook in imported for problem in notebook.misplaced()]:
        raise ConfigError("\n".join(misplaced))
    runs = []
    problems: dict[str, dict[str, None]] = {}  # each with the notebooks that have it, an ordered set
    for notebook, point in wanted:
        try:
            values = notebook.check(point)
            data = checks.data(notebook, values) if images else {}
        except ConfigError as error:  # one line for each parameter
            for problem in str(error).splitlines():
                problems.setdefault(problem, {})[notebook.name] = None
            continue
        given = {name: values[name] for name in point}
        modules, packages = imported[notebook]
        files = {**modules, **(inputs or {})}
        runs.append(NotebookRun(notebook.name, notebook.checksum, given, values, version, data, files, packages))
    if problems:
        raise ConfigError(_told(problems, len(wanted)))
    return runs


def _told(problems: Mapping[str, Iterable[str]], n_runs: int) -> str:
    """Return problems, each with the notebooks that have it, as one message."""
    of_notebooks: dict[str, list[str]] = {}
    for problem, notebooks in list(problems.items())[:MOST_PROBLEMS]:
        of_notebooks.setdefault(", ".join(notebooks), []).append(problem)
    lines = [f"in the parameters of {names}: " + "\n".join(found) for names, found in of_notebooks.items()]
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"and {len(problems) - MOST_PROBLEMS} more problems")
    if n_runs > 1:
        lines.append(f"({n_runs} runs were asked for, none was started)")
    return "\n".join(lines)


class _Checks:
    """What is checked of the configs that a notebook's parameters describe; the images of each data set once."""

    def __init__(self, here: bool) -> None:
        self.here = here
        self.loaded: dict[str, Any] = {}  # names -> data sets, or why there are none
        self.networks: set[str] = set()

    def data(self, notebook: Notebook, values: Mapping[str, Any]) -> dict[str, str]:
        """Return file -> checksum of the images that the parameters name.

        Raises:
            ConfigError: a value that a run would refuse.
        """
        config = notebook.configs(values)[0]
        if self.here and isinstance(device := values.get("device"), str):
            from hatlab.training.runs import find_device

            find_device(device)
        if not notebook.names_data(values):
            return {}
        from hatlab.data.tasks import make_sequence
        from hatlab.training.jobs import check_network

        sets = self._sets(config.dataset)
        alike = config.replace(seed=RunConfig().seed, c=RunConfig().c)
        if alike.run_id not in self.networks:
            check_network(config, make_sequence(config, sets))
            self.networks.add(alike.run_id)
        return {file: value for data in sets for file, value in data.checksums.items()}

    def _sets(self, names: str) -> Any:
        from hatlab.data.datasets import load_all

        if names not in self.loaded:
            try:
                self.loaded[names] = load_all(names)
            except ConfigError as error:  # a download is tried once
                self.loaded[names] = error
        if isinstance(found := self.loaded[names], ConfigError):
            raise found
        return found
