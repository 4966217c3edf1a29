import json
import os
import sys
import time

import nbformat
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jupyter_client.manager import start_new_kernel
from notebooks_for_tests import write
from papermill.parameterize import parameterize_notebook

from hatlab.batches import client, kernels
from hatlab.batches.kernels import Execution
from hatlab.batches.notebook import Notebook
from hatlab.batches.processes import end_marked, marked
from hatlab.support.paths import RUN

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


def execute(folder, *code, parameters=None, given=None, meanwhile=None, **options):
    """Run a notebook with these cells to its end; return the execution."""
    notebook = Notebook.read(write(folder / "n.ipynb", *code, parameters=parameters))
    execution = Execution(notebook, folder / "out.ipynb", given or {}, str(folder), **options)
    execution.start()
    if meanwhile:
        meanwhile(execution)
    execution.join(300)
    assert not execution.is_alive()
    assert end_marked(RUN, str(folder)) == 0
    return execution


def outputs(folder):
    notebook = nbformat.read(folder / "out.ipynb", as_version=4)
    nbformat.validate(notebook)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def wait(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


ABOUT = """\
import json, os, sys
from ipykernel.kernelapp import IPKernelApp
app = IPKernelApp.instance()
print(json.dumps({
    "python": sys.executable, "group": os.getpgid(0), "pid": os.getpid(), "transport": app.transport,
    "cwd": os.getcwd(), "private": oct(os.stat(os.path.dirname(app.ip)).st_mode & 0o777),
    "run": os.environ["HATLAB_NOTEBOOK_RUN"], "x": os.environ["X"],
}))"""


def test_a_kernel_is_this_python_in_a_group_of_its_own_spoken_to_through_private_sockets(tmp_path):
    listening = []

    def meanwhile(execution):
        wait(lambda: execution.cell == 2 or not execution.is_alive())
        listening.extend(psutil.Process(execution.pid).net_connections("inet"))

    execution = execute(
        tmp_path,
        ABOUT,
        "import time; time.sleep(1)",
        environment={"X": "$HOME ${X} $"},
        cwd=tmp_path,
        meanwhile=meanwhile,
    )
    assert execution.failure is None
    about = json.loads(outputs(tmp_path)[0].text)
    assert about["python"] == sys.executable
    assert about["pid"] == about["group"] == execution.pid != os.getpgid(0)
    assert about["transport"] == "ipc" and about["private"] == "0o700"
    # ipykernel opens one port for what forked processes print
    assert {connection.laddr.ip for connection in listening if connection.status == "LISTEN"} <= {"127.0.0.1"}
    assert (about["cwd"], about["run"], about["x"]) == (str(tmp_path), str(tmp_path), "$HOME ${X} $")


def test_where_sockets_have_no_room_the_kernel_listens_on_loopback_only(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "SOCKET_PATH", 0)
    code = "from ipykernel.kernelapp import IPKernelApp\napp = IPKernelApp.instance()\nprint(app.transport, app.ip)"
    assert execute(tmp_path, code).failure is None
    assert outputs(tmp_path)[0].text == "tcp 127.0.0.1\n"


DIED = "(import os): KernelDied: the kernel's process"


@pytest.mark.parametrize(
    ("code", "failure", "died"),
    [
        (["1 / 0", "2"], "in cell [1] (1 / 0): ZeroDivisionError: division by zero", False),
        (["2", "import os\nos._exit(1)"], f"in cell [2] {DIED} ended with exit code 1", True),
        (["import os\nos._exit(0)", "2"], f"in cell [1] {DIED} ended with exit code 0", True),
        (["import os\nos.kill(os.getpid(), 9)"], f"in cell [1] {DIED} was killed by signal 9", True),
        (
            ["import sys\nsys.exit(0)", "2"],
            "in cell [1] (import sys): SystemExit: 1 of 2 cells were not run: cell [1] ended the notebook",
            False,
        ),
        (["import sys\nsys.exit(3)"], "in cell [1] (import sys): SystemExit: 3", False),
    ],
)
def test_a_failure_is_told_as_it_was(tmp_path, code, failure, died):
    execution = execute(tmp_path, *code)
    assert str(execution.failure) == failure
    assert execution.failure.died == died


def test_the_traceback_is_kept_without_colours(tmp_path):
    failure = execute(tmp_path, "def f():\n    raise ValueError('no\\nway')\nf()").failure
    assert failure.message == "no\nway"
    assert "ValueError: no\nway" in failure.traceback and "\x1b" not in failure.traceback


def test_cells_that_need_not_run_do_not_count(tmp_path):
    path = write(tmp_path / "n.ipynb", "", "import sys\nsys.exit()")
    content = nbformat.read(path, as_version=4)
    content.cells.append(nbformat.v4.new_code_cell("1 / 0", metadata={"tags": ["skip-execution"]}))
    content.cells.append(nbformat.v4.new_markdown_cell("the end"))
    nbformat.write(content, path)
    execution = Execution(Notebook.read(path), tmp_path / "out.ipynb", {}, "run")
    execution.start()
    execution.join(300)
    assert execution.failure is None


def test_output_without_end_is_cut_and_the_rest_goes_on(tmp_path):
    execution = execute(tmp_path, "for _ in range(500):\n    print('x' * 100_000)", "print('end')", "1 / 0")
    assert execution.failure.error == "ZeroDivisionError"
    size = (tmp_path / "out.ipynb").stat().st_size
    assert 0.9 * client.OUTPUT_LIMIT < size < 1.1 * client.OUTPUT_LIMIT
    found = outputs(tmp_path)
    assert "".join(output.get("text", "") for output in found).count("the rest is left out") == 1
    assert found[-1].output_type == "error"


def test_an_interrupt_reaches_the_cell_and_a_kill_its_children(tmp_path):
    code = (
        "import subprocess, time\nchild = subprocess.Popen(['sleep', '300'], start_new_session=True)\ntime.sleep(300)"
    )

    def children(execution):
        return [p for p in marked(RUN, str(tmp_path)) if p.pid != execution.pid]

    def interrupt(execution):
        wait(lambda: execution.cell == 1 and children(execution))
        execution.interrupt()
        execution.join(300)
        assert len(children(execution)) == 1  # it left the group, and lives on
        assert end_marked(RUN, str(tmp_path)) == 1

    assert execute(tmp_path, code, meanwhile=interrupt).failure.error == "KeyboardInterrupt"

    def kill(execution):
        wait(lambda: execution.cell == 1 and children(execution))
        execution.kill()

    assert execute(tmp_path, code, meanwhile=kill).failure.died


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
NASTY = [
    "\"; import os; os._exit(1) #", "'''", '"""', "\\", "\\n\n\r\0\x1b[31m", "{name}", "${HOME}", "%(x)s",
    "\u2028\u202e\U0001f600", "x" * 300_000, float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 2**70, None,
    True, [[[[]]]], {"a\"'": {"": [None]}},
]  # fmt: skip


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel(extra_arguments=["--log-level=CRITICAL"])
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def read_back(kernel, value):
    """Set the parameter d the way a notebook gets it, in a running kernel; return what the kernel says that d is."""
    cell = nbformat.v4.new_code_cell("d: Any = None", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}})
    injected = parameterize_notebook(notebook, {"d": value}, kernel_name="python3", language="python").cells[1].source
    reply = kernel.execute_interactive(
        injected, user_expressions={"d": "__import__('json').dumps(d)"}, timeout=300, output_hook=lambda message: None
    )
    return json.loads(eval(reply["content"]["user_expressions"]["d"]["data"]["text/plain"]))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plain)
def test_a_value_is_data_in_the_kernel_whatever_it_is(kernel, value):
    # as JSON: NaN equals itself there, and 1, 1.0 and true differ
    assert json.dumps(read_back(kernel, value)) == json.dumps(value)


def test_values_made_to_break_out_stay_inside(tmp_path):
    code = "import json\nprint(json.dumps(d))"
    assert execute(tmp_path, code, parameters="d: list = []", given={"d": NASTY}).failure is None
    assert outputs(tmp_path)[0].text.strip() == json.dumps(NASTY)
    text = (tmp_path / "out.ipynb").read_text()
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    metadata = json.loads(text)["metadata"]["papermill"]
    assert (metadata["input_path"], metadata["output_path"]) == ("n.ipynb", "n.ipynb")
    assert str(tmp_path) not in text


def test_what_a_cell_clears_makes_room_for_what_it_prints_next(tmp_path):
    code = (
        "from IPython.display import clear_output\nfor i in range(30):\n    clear_output(wait={wait})\n"
        "    print('x' * 1_000_000)\nprint('last')"
    )
    execution = execute(tmp_path, code.format(wait=True), code.format(wait=False), "print('end')")
    assert execution.failure is None
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    texts = ["".join(output.text for output in cell.outputs) for cell in cells]
    assert [text[-5:] for text in texts] == ["last\n", "last\n", "end\n"]
    assert "left out" not in (tmp_path / "out.ipynb").read_text()


def test_a_long_error_is_cut_where_it_is_kept(tmp_path):
    failure = execute(tmp_path, "raise ValueError('x' * 8_000_000)").failure
    assert failure.message.endswith("… (8000000 characters)") and len(failure.message) < 3_000
    assert len(failure.traceback) <= kernels.TRACEBACK_LIMIT
    assert (tmp_path / "out.ipynb").stat().st_size < 200_000


def test_no_cell_begins_after_an_interrupt_that_a_cell_has_caught(tmp_path):
    code = "import time\ntry:\n    time.sleep(300)\nexcept KeyboardInterrupt:\n    pass"

    def interrupt(execution):
        wait(lambda: execution.cell == 1)
        time.sleep(0.5)  # the cell is sent
        execution.interrupt()

    failure = execute(tmp_path, code, "print('next')", meanwhile=interrupt).failure
    assert failure.error == "Stopped" and not any("text" in output for output in outputs(tmp_path))


def test_a_kernel_beats_while_its_code_holds_the_interpreter_and_not_while_it_is_stopped(tmp_path):
    # PyDLL keeps the interpreter's lock: no Python code of the kernel runs meanwhile
    held = "import ctypes, pathlib\npathlib.Path('held').touch()\nctypes.PyDLL(None).sleep(4)"
    stopped = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"
    seen = []

    def meanwhile(execution):
        wait(lambda: (tmp_path / "held").exists())
        while execution.cell == 1:
            seen.append(execution.beating)
            time.sleep(0.1)
        wait(lambda: not execution.beating)
        execution.kill()

    failure = execute(tmp_path, held, stopped, cwd=tmp_path, meanwhile=meanwhile).failure
    assert failure.died and seen[-1]
