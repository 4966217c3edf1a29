"""The row about batches of notebooks: what hatlab adds to papermill for each."""

from __future__ import annotations

import functools
import io
import itertools
import tempfile
from pathlib import Path

from benchmarks.table import Measured, NotMeasured, Setting, row
from benchmarks.timing import Ratio, ratio, stopwatch
from hatlab.batches.batches import batch
from hatlab.batches.view import Display

try:  # a GPU machine can do without Jupyter
    import nbformat
    import papermill
    import psutil
except ImportError:
    papermill = None

WORKERS = 2


def _trivial(folder: Path) -> Path:
    cells = [
        nbformat.v4.new_code_cell("i: int = 0  # the run", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print(i)"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "trivial.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


class _Memory(Display):
    """A display that shows nothing, and notes the memory of this process each time a run ends."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.resident: list[int] = []

    def ended(self, *arguments: object) -> None:
        super().ended(*arguments)  # type: ignore[arg-type]
        self.resident.append(psutil.Process().memory_info().rss)


def _seconds(measured: Ratio) -> float:
    return measured.sides[0]


@row("batch", "a trivial notebook in a batch of 200, 2 at a time / by papermill alone", "<= 2 s a run", _seconds)
def batch_of_trivial_notebooks(setting: Setting) -> Measured:
    """Both in seconds per notebook; a batch's are its whole time, its start included, times 2 workers, over 200."""
    if papermill is None:
        raise NotMeasured("papermill is not installed here")
    setting.need_cores(WORKERS)
    n, alone = (10, 2) if setting.quick else (200, 10)
    grown: list[float] = []
    with tempfile.TemporaryDirectory() as made:
        notebook, numbers = _trivial(Path(made)), itertools.count()

        def batched() -> None:
            shown = _Memory()
            over = {"i": range(n)}
            batch(notebook, over=over, results=Path(made) / str(next(numbers)), workers=WORKERS, display=shown)
            grown.append((shown.resident[-1] - shown.resident[n // 10]) / 1e6)

        plain = functools.partial(
            papermill.execute_notebook, str(notebook), str(Path(made) / "out.ipynb"), {"i": 1}, progress_bar=False
        )
        measured = ratio(stopwatch(batched, per=n / WORKERS), stopwatch(plain, times=alone), setting.runs(3), warm_up=0)
    more = {"notebooks": n, "workers": WORKERS, "runner_memory_growth_mb": [round(one, 1) for one in grown]}
    return Measured(measured, ("in a batch", "papermill alone"), "s", more)
