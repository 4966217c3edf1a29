"""One notebook in a kernel of its own: started, watched from outside, ended, and its failure told truly.

Papermill executes the notebook, in a thread; the kernel is a process of this same Python, whatever kernels are
registered on the machine, in a process group of its own, and is spoken to through sockets in a private folder. What
the kernel says of itself is not believed where the operating system knows better: a kernel that is gone, by whatever
way, has failed, and so has a notebook of which a cell was never run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from hatlab.notebook import Notebook
from hatlab.paths import RUN

__all__ = ["RUN", "Execution", "Failure", "end_leftovers", "memory"]

STOP_SECONDS: Final = 10  # for what was asked to end
SHUTDOWN_SECONDS: Final = 3.0  # for a kernel that is done
OUTPUT_LIMIT: Final = 10_000_000  # characters of output that an executed copy holds
LEFT_OUT: Final = f"\n[hatlab: more than {OUTPUT_LIMIT // 1_000_000} MB of output; the rest is left out]\n"
TRACEBACK_LIMIT: Final = 20_000
SOCKET_PATH: Final = 80  # the operating system allows about 100 characters, of which the kernel appends some
ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Failure:
    """Why a notebook did not come to its end.

    Attributes:
        cell: the number in brackets beside the cell, from 1; 0: before the first.
        source: the cell's first line.
        error: class of the exception, or "KernelDied".
        message: its text.
        traceback: as the cell shows it, without colours.
    """

    cell: int
    source: str
    error: str
    message: str
    traceback: str = ""

    @property
    def died(self) -> bool:
        """Whether the kernel's process is gone, rather than a cell in error."""
        return self.error == "KernelDied"

    def __str__(self) -> str:
        where = f"in cell [{self.cell}] ({self.source}): " if self.cell else ""
        return f"{where}{self.error}: {self.message}"


class Execution(threading.Thread):
    """Papermill at work on one notebook. A daemon: if all else fails, the kernel ends when it sees its parent gone.

    Args:
        notebook: what to execute.
        output: the executed copy; written after every cell.
        parameters: name -> plain value, checked.
        run: what names the run in the environment of its processes.
        environment: further variables for the kernel.
        cwd: the kernel's current folder; None: that of this process.
    """

    def __init__(
        self,
        notebook: Notebook,
        output: Path,
        parameters: Mapping[str, Any],
        run: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        super().__init__(name=f"papermill {notebook.name}", daemon=True)
        self.notebook, self.output, self.parameters, self.run_name = notebook, output, dict(parameters), run
        self.environment, self.cwd = dict(environment or {}), cwd
        self.failure: Failure | None = None
        self.cell, self.source = 0, ""  # the code cell under way: its number and first line
        code = [cell for cell in notebook.cells if cell["cell_type"] == "code" and cell["source"].strip()]
        self.n_cells = len(code) + bool(parameters)  # papermill adds one that sets them
        self.process: Any = None
        self._manager: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pid(self) -> int | None:
        """The kernel's process, which leads its group; None before it started."""
        return self.process.pid if self.process is not None else None

    def run(self) -> None:
        from jupyter_core.utils import ensure_event_loop

        self._loop = ensure_event_loop(prefer_selector_loop=True)  # on Windows, ZeroMQ needs such a loop
        try:
            with tempfile.TemporaryDirectory(prefix="hatlab-", ignore_cleanup_errors=True) as scratch:
                self._execute(Path(scratch))
        except Exception as error:
            self.failure = self._failed(error)
        finally:
            if left := asyncio.all_tasks(self._loop):  # of a kernel that was killed
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(left, timeout=1))
            self._loop.close()

    def _execute(self, scratch: Path) -> None:
        import papermill
        from papermill.engines import papermill_engines
        from papermill.log import logger

        logger.setLevel("CRITICAL")  # what goes wrong is told by the failure
        papermill_engines.register("hatlab", _engine())
        source = scratch / "notebook.ipynb"
        source.write_text(self.notebook.text, encoding="utf-8")
        done = papermill.execute_notebook(
            _literal(source),
            _literal(self.output),
            self.parameters,
            engine_name="hatlab",
            kernel_name="python3",
            language="python",
            progress_bar=False,
            execution=self,
            kernel_manager_class=self._manager_class(scratch),
        )
        if left := [cell for cell in done.cells if _was_to_run(cell) and cell.execution_count is None]:
            what = f"{len(left)} of {self.n_cells} cells were not run: cell [{self.cell}] ended the notebook"
            self.failure = Failure(self.cell, self.source, "SystemExit", what)

    def _manager_class(self, scratch: Path) -> type:
        from ipykernel.kernelspec import get_kernel_dict
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import AsyncKernelManager

        execution = self
        package = str(Path(__file__).resolve().parent.parent)
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            **self.environment,
            RUN: self.run_name,
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
                where: dict[str, Any] = (
                    {"transport": "ipc", "ip": str(scratch / "k")} if sockets else {"ip": "127.0.0.1"}
                )
                # half of that until the kernel is ended otherwise: one in ten ipykernels gets stuck when it is done
                where["shutdown_wait_time"] = SHUTDOWN_SECONDS
                super().__init__(connection_file=str(scratch / "kernel.json"), **where, **kwargs)
                execution._manager = self

            async def start_kernel(self, **kwargs: Any) -> None:  # type: ignore[override]
                await super().start_kernel(**{**kwargs, "cwd": str(execution.cwd)} if execution.cwd else kwargs)
                execution.process = getattr(self.provisioner, "process", None)

        return ThisPython

    def interrupt(self) -> None:
        """Ask the kernel to end, as Ctrl-C would. Returns at once."""
        self._ask("interrupt_kernel")

    def kill(self) -> None:
        """End the kernel and all that it started, and wait for the thread."""
        self._ask("shutdown_kernel", now=True)
        deadline = time.monotonic() + STOP_SECONDS
        while self.is_alive() and time.monotonic() < deadline:
            end_leftovers(self.run_name)
            self.join(0.2)

    def _ask(self, what: str, **kwargs: Any) -> None:
        if self._manager is not None and self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(getattr(self._manager, what)(**kwargs), self._loop)

    def _failed(self, error: Exception) -> Failure:
        from nbclient.exceptions import DeadKernelError
        from papermill.exceptions import PapermillExecutionError

        if isinstance(error, PapermillExecutionError):
            traceback = ANSI.sub("", "\n".join(error.traceback))[-TRACEBACK_LIMIT:]
            return Failure(self.cell, self.source, error.ename, ANSI.sub("", error.evalue), traceback)
        if isinstance(error, DeadKernelError) and self.process is not None:
            code = self.process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return Failure(self.cell, self.source, "KernelDied", f"the kernel's process {how}")
        return Failure(self.cell, self.source, type(error).__name__, str(error))


def _was_to_run(cell: Any) -> bool:
    skipped = "skip-execution" in cell.metadata.get("tags", [])
    return cell.cell_type == "code" and bool(cell.source.strip()) and not skipped


def _literal(path: Path) -> str:
    """Papermill formats paths with the parameters; braces in them are meant as they stand."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _engine() -> type:
    """Papermill's engine, with a limit to what it keeps of the output and an eye on where it stands."""
    from nbformat import NotebookNode
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, NotebookExecutionManager

    class Manager(NotebookExecutionManager):  # type: ignore[misc]
        def save(self, **kwargs: Any) -> None:
            # while the notebook runs, a disk that is full or read-only for a moment costs nothing but the copy
            with contextlib.suppress(OSError):
                super().save(**kwargs)

    class Client(PapermillNotebookClient):  # type: ignore[misc]
        def __init__(self, manager: Manager, execution: Execution, **traits: Any) -> None:
            super().__init__(manager, **traits)
            self.execution, self.room = execution, OUTPUT_LIMIT

        def execute_cell(self, cell: NotebookNode, index: int, **kwargs: Any) -> Any:
            if _was_to_run(cell):
                self.execution.source = cell.source.strip().splitlines()[0]
                self.execution.cell += 1
            return super().execute_cell(cell, index, **kwargs)

        def output(self, outs: list[NotebookNode], msg: dict[str, Any], display_id: Any, index: int) -> Any:
            if self.room < 0 and msg["msg_type"] != "error":
                return None
            content = msg["content"]
            self.room -= _size(content)
            if self.room < 0 and msg["msg_type"] != "error":
                if msg["msg_type"] != "stream":
                    msg = {**msg, "msg_type": "stream"}
                    content = {"name": "stderr", "text": ""}
                kept = content["text"][: max(0, len(content["text"]) + self.room)]
                msg = {**msg, "content": {**content, "text": kept + LEFT_OUT}}
            return super().output(outs, msg, display_id, index)

    class Engine(NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_notebook(
            cls, nb: NotebookNode, kernel_name: str, output_path: str, execution: Execution, **options: Any
        ) -> NotebookNode:
            # a copy that is passed on should not name folders of this machine; JSON has no NaN
            nb.metadata.papermill.update(
                input_path=execution.notebook.name, output_path=execution.notebook.name,
                parameters=_without_nan(dict(nb.metadata.papermill.get("parameters", {}))),
            )  # fmt: skip
            manager = Manager(nb, output_path, progress_bar=False)
            manager.notebook_start()
            try:
                Client(
                    manager,
                    execution,
                    kernel_name="python3",
                    kernel_manager_class=options["kernel_manager_class"],
                    iopub_timeout=60,
                ).execute()
            finally:
                manager.notebook_complete()
            return cast(NotebookNode, manager.nb)

    return Engine


def _size(content: Any) -> int:
    if isinstance(content, dict):
        return sum(_size(value) for value in content.values())
    if isinstance(content, list):
        return sum(_size(value) for value in content)
    return len(content) if isinstance(content, str) else 8


def _without_nan(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _without_nan(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_without_nan(item) for item in data]
    return str(data) if isinstance(data, float) and (data != data or abs(data) == float("inf")) else data


def _processes(run: str) -> list[Any]:
    """Processes of this machine that belong to a run, wherever in the tree they hang by now."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(RUN) == run:
                found.append(process)
    return found


def end_leftovers(run: str) -> int:
    """Kill all processes of this machine that belong to `run`, and return how many there were.

    For after a kernel has ended, and for before one starts: if the process that watched over the last one was killed,
    its kernel lives on for a moment.
    """
    import psutil

    ended: set[int] = set()
    while found := _processes(run):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        ended |= {process.pid for process in found}
        time.sleep(0.05)  # not psutil.wait_procs: it would take a child's exit code from whoever started it
    return len(ended)


def memory(pid: int) -> int:
    """Return how many bytes of memory a process and those that it started hold for themselves; 0 if it is gone."""
    import psutil

    total = 0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for one in family:
        with contextlib.suppress(psutil.Error, OSError):
            total += one.memory_info().rss
    return total
