"""One notebook in a kernel of its own: started, executed by nbclient, interrupted or killed, its failure recorded.

The kernel is a process of this same Python, whatever kernels are registered on the machine, in a process group of its
own, and is spoken to through sockets in a private folder. A kernel whose process is gone has failed, whatever it has
answered, and so has a notebook of which a cell was never run.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hatlab.batches.client import ANSI, TRACEBACK_LIMIT, client_class, cut
from hatlab.batches.meters import cpu_seconds
from hatlab.batches.notebook import Notebook
from hatlab.batches.post_mortem import MOST_LINES
from hatlab.batches.processes import GUARD, end_marked, guard
from hatlab.support.files import atomic
from hatlab.support.paths import RUN

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["Execution", "Failure"]

STOP_SECONDS: Final = 10  # for what was asked to end
SHUTDOWN_SECONDS: Final = 3.0  # for a kernel that is done
SOURCE_LIMIT: Final = 200  # characters of a cell's first line
SOCKET_PATH: Final = 80  # the operating system allows about 100 characters, of which the kernel appends some


class Failure(NamedTuple):
    """Why a notebook did not come to its end.

    Attributes:
        cell: the number in brackets beside the cell, from 1; 0: before the first.
        source: the cell's first line.
        error: class of the exception, or "KernelDied".
        message: its text.
        traceback: as the cell shows it, without colours.
        frames: the values in its frames, as `post_mortem.frames` describes them; "" where the kernel could not tell.
    """

    cell: int
    source: str
    error: str
    message: str
    traceback: str = ""
    frames: str = ""

    @property
    def died(self) -> bool:
        """Whether the kernel's process is gone, rather than a cell in error."""
        return self.error == "KernelDied"

    def __str__(self) -> str:
        where = f"in cell [{self.cell}] ({self.source}): " if self.cell else ""
        return f"{where}{self.error}: {self.message}"


class Execution(threading.Thread):
    """Executes one notebook. A daemon: if all else fails, the kernel ends when it sees its parent gone.

    Args:
        notebook: what to execute.
        output: the executed copy; written after every cell.
        parameters: name -> plain value, checked.
        run: what names the run in the environment of its processes.
        environment: further variables for the kernel.
        cwd: the kernel's current folder; None: that of this process.
        shown: name -> value that the executed copy shows instead of that of `parameters`.

    Attributes:
        failure: None while the notebook is executed, and if it came to its end.
        cell, source: number and first line of the code cell under way.
        cells: cost of each cell that was begun: `cell`, `source`, `seconds`, `cpu`, `memory`, as in `ledger.Status`.
        output: the last lines that the cell under way has written.
    """

    def __init__(
        self,
        notebook: Notebook,
        output: Path,
        parameters: Mapping[str, Any],
        run: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name=f"kernel of {notebook.name}", daemon=True)
        self.notebook, self.copy, self.run_name, self.cwd = notebook, output, run, cwd
        self.parameters, self.shown = dict(parameters), {**parameters, **(shown or {})}
        self.environment = {**(environment or {}), RUN: run, GUARD: guard()}
        self.failure: Failure | None = None
        self.cell, self.source = 0, ""
        code = [cell for cell in notebook.cells if cell["cell_type"] == "code" and cell["source"].strip()]
        self.n_cells = len(code) + bool(parameters)  # one more sets them
        self.cells: list[dict[str, Any]] = []
        self.output: deque[str] = deque(maxlen=MOST_LINES)
        self._began, self._used, self._frames = 0.0, 0.0, ""
        self.stopping = False
        self.process: Any = None
        self._traceback: list[str] = []
        self._manager: Any = None
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pid(self) -> int | None:
        """The kernel's process, which leads its group; None before it started."""
        return self.process.pid if self.process is not None else None

    @property
    def beating(self) -> bool:
        """Whether the kernel answers its heartbeat, which needs nothing of the notebook's code but a process that runs.

        True while it starts.
        """
        channels = self._client.kc if self._client is not None else None
        return channels is None or channels.hb_channel.is_beating()

    def run(self) -> None:
        try:
            # on Windows, ZeroMQ needs such a loop
            with (
                tempfile.TemporaryDirectory(prefix="hatlab-", ignore_cleanup_errors=True) as scratch,
                asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner,
            ):
                self._loop = runner.get_loop()
                runner.run(self._execute(Path(scratch)))
        except Exception as error:
            self.failure = self._failed(error)

    def measure(self) -> None:
        """Note what the cell under way has cost until now."""
        if self.cells and self.pid:
            used = cpu_seconds(self.pid) or self._used  # of a process that is gone nothing is known
            seconds = round(time.monotonic() - self._began, 2)
            self.cells[-1] |= {"seconds": seconds, "cpu": round(max(0.0, used - self._used), 2)}

    def begin(self, source: str) -> None:
        self.source, self.cell = source[:SOURCE_LIMIT], self.cell + 1
        self.output.clear()
        self._began, self._used = time.monotonic(), cpu_seconds(self.pid) if self.pid else 0.0
        self.cells.append({"cell": self.cell, "source": self.source, "seconds": 0.0, "cpu": 0.0, "memory": 0})

    async def _execute(self, scratch: Path) -> None:
        notebook = _parameterized(self.notebook, self.shown)
        self._client = client_class()(self, notebook, _manager_class(self, scratch))
        ended = None
        try:
            await self._client.async_execute()
        except Exception as error:
            ended = error
        try:
            self.save(notebook)
        except OSError:
            if ended is None:  # a copy of what failed can be done without
                raise
        if ended is not None and not _left_quietly(ended):
            raise ended
        if left := [cell for cell in notebook.cells if _was_to_run(cell) and cell.execution_count is None]:
            what = f"{len(left)} of {self.n_cells} cells were not run: cell [{self.cell}] ended the notebook"
            self.failure = Failure(self.cell, self.source, "SystemExit", what)

    def save(self, notebook: NotebookNode) -> None:
        """Write the executed copy.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        import nbformat

        with atomic(self.copy) as temporary:
            temporary.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")

    def interrupt(self) -> None:
        """Ask the kernel to end, as Ctrl-C would, and begin no other cell. Returns at once."""
        self.stopping = True
        self._ask("interrupt_kernel")

    def kill(self) -> None:
        """End the kernel and all that it started, and wait for the thread."""
        self.stopping = True
        self._ask("shutdown_kernel", now=True)
        deadline = time.monotonic() + STOP_SECONDS
        while self.is_alive() and time.monotonic() < deadline:
            end_marked(RUN, self.run_name)
            self.join(0.2)

    def _ask(self, what: str, **kwargs: Any) -> None:
        if self._manager is not None and self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(getattr(self._manager, what)(**kwargs), self._loop)

    def _failed(self, error: Exception) -> Failure:
        from nbclient.exceptions import CellExecutionError, DeadKernelError

        if isinstance(error, CellExecutionError):
            text = ANSI.sub("", "\n".join(self._traceback)[-2 * TRACEBACK_LIMIT :])[-TRACEBACK_LIMIT:]
            message = ANSI.sub("", cut(error.evalue))
            return Failure(self.cell, self.source, error.ename, message, text, self._frames)
        if isinstance(error, DeadKernelError) and self.process is not None:
            code = self.process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return Failure(self.cell, self.source, "KernelDied", f"the kernel's process {how}")
        return Failure(self.cell, self.source, type(error).__name__, cut(str(error)))


def _left_quietly(error: Exception) -> bool:
    """Whether a cell called sys.exit() without a code."""
    return getattr(error, "ename", "") == "SystemExit" and getattr(error, "evalue", "") in ("", "0", "None")


def _was_to_run(cell: Any) -> bool:
    skipped = "skip-execution" in cell.metadata.get("tags", [])
    return cell.cell_type == "code" and bool(cell.source.strip()) and not skipped


def _parameterized(notebook: Notebook, parameters: Mapping[str, Any]) -> NotebookNode:
    import nbformat
    from papermill.log import logger
    from papermill.parameterize import parameterize_notebook

    logger.setLevel("CRITICAL")  # it warns of a notebook without parameters
    content: NotebookNode = nbformat.reads(notebook.text, as_version=4)
    # the names are those that papermill gives to input and output; no folder of this machine
    content.metadata["papermill"] = {"input_path": notebook.name, "output_path": notebook.name}
    for cell in content.cells:
        cell.metadata.setdefault("tags", [])  # papermill reads them
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if parameters:
        content = parameterize_notebook(content, dict(parameters), kernel_name="python3", language="python")
        as_json = json.dumps(dict(parameters))
        content.metadata.papermill["parameters"] = json.loads(as_json, parse_constant=str)  # NaN is no JSON
    return content


def _manager_class(execution: Execution, scratch: Path) -> type:
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    package = str(Path(__file__).resolve().parent.parent.parent)
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        **execution.environment,
    }
    sockets = os.name == "posix" and len(str(scratch)) <= SOCKET_PATH

    class ThisPython(AsyncKernelManager):
        """Starts the interpreter that runs this code, whatever "python3" means in the user's Jupyter."""

        # without the level, the kernel warns on the terminal; a $ would be taken for a variable's name
        kernel_spec = KernelSpec(
            **get_kernel_dict(["--log-level=CRITICAL"]),
            env={name: value.replace("$", "$$") for name, value in environment.items()},
        )

        def __init__(self, **kwargs: Any) -> None:
            where: dict[str, Any] = {"transport": "ipc", "ip": str(scratch / "k")} if sockets else {"ip": "127.0.0.1"}
            # half of that until the kernel is ended otherwise: one in ten ipykernels gets stuck when it is done
            where["shutdown_wait_time"] = SHUTDOWN_SECONDS
            super().__init__(connection_file=str(scratch / "kernel.json"), **where, **kwargs)
            execution._manager = self

        async def start_kernel(self, **kwargs: Any) -> None:  # type: ignore[override]
            await super().start_kernel(**{**kwargs, "cwd": str(execution.cwd)} if execution.cwd else kwargs)
            execution.process = getattr(self.provisioner, "process", None)

    return ThisPython
