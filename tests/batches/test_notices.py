"""The message about a batch: to a command and to addresses; what may be secret is nowhere."""

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hatlab.batches import notices
from hatlab.batches.ledger import NotebookRun, Status
from hatlab.batches.notices import Notices, message
from hatlab.batches.plans import Batch
from hatlab.config import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr':DeprecationWarning")  # which Apprise imports
SECRET = "tok_hunter2hunter2"


@pytest.fixture
def receiver():
    """A local HTTP server, and what it was sent."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, got
        server.shutdown()
        thread.join()


def writes(path):
    return f"{sys.executable} -c \"import sys; open({str(path)!r}, 'w').write(sys.stdin.read())\""


def test_a_command_gets_the_message_on_its_standard_input(tmp_path):
    assert Notices(writes(tmp_path / "mail")).send("title", "text ü") == []
    assert (tmp_path / "mail").read_text() == "title\n\ntext ü\n"


def test_an_address_gets_title_and_text(receiver):
    pytest.importorskip("apprise")
    port, got = receiver
    assert Notices(addresses=[f"json://127.0.0.1:{port}/{SECRET}"]).send("title", "text") == []
    ((path, told),) = got
    assert path == f"/{SECRET}" and told["title"] == "title" and told["message"] == "text"


def test_what_cannot_be_sent_is_told_without_the_secret(tmp_path, caplog, capfd):
    failing = Notices(f"{sys.executable} -c 'import sys; sys.exit(3)' {SECRET}")
    (problem,) = failing.send("title", "text")
    assert "ended with exit code 3" in problem and SECRET not in problem + repr(failing)
    pytest.importorskip("apprise")
    nobody = Notices(addresses=[f"json://127.0.0.1:9/{SECRET}"])
    (problem,) = nobody.send("title", "text")
    assert "did not take the message" in problem
    assert SECRET not in problem + repr(nobody) + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("", "is empty"),
        ("no-such-program-here -x", "no program 'no-such-program-here'"),
        ("mail 'x", "No closing quotation"),
    ],
)
def test_a_command_that_cannot_be_is_refused_before_anything_runs(command, told):
    with pytest.raises(ConfigError, match=told):
        Notices(command)


def test_an_address_that_is_none_is_refused_without_showing_it():
    pytest.importorskip("apprise")
    for address, told in (f"nosuchkind://user:{SECRET}@host", "nosuchkind"), (SECRET, "without ://"):
        with pytest.raises(ConfigError, match=told) as refused:
            Notices(addresses=[address])
        assert SECRET not in str(refused.value)


def test_without_apprise_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"hatlab\[notify\]"):
        Notices(addresses=["json://host"])
    assert not Notices()


def test_addresses_of_the_environment_do_not_stay_in_it(monkeypatch):
    monkeypatch.setenv(notices.VARIABLE, f"json://host/{SECRET} ntfy://topic")
    assert notices.from_environment() == [f"json://host/{SECRET}", "ntfy://topic"]
    assert notices.VARIABLE not in os.environ and notices.from_environment() == []


def test_the_message_has_counts_causes_time_and_where_to_look(tmp_path):
    runs = tuple(NotebookRun("n.ipynb", f"{k}", {"i": k}, {"i": k}, "0", {}) for k in range(14))
    batch = Batch("night", runs, tmp_path)
    bad = [Status("failed", 1, error={"cell": k, "error": "ValueError", "message": "no"}) for k in range(12)]
    statuses = {run.run_id: status for run, status in zip(runs, [Status("done"), Status("done"), *bad], strict=True)}
    title, text = message(batch, statuses, 3725, "stopped: by Ctrl-C or a signal")
    assert title == "hatlab: night stopped: 2 of 14 done, 12 failed"
    for part in (
        "night stopped: by Ctrl-C or a signal after 1 h 02 min",
        "cell 3, ValueError: no; first: ",
        "and 2 causes more",
        "hatlab status night",
        str(tmp_path),
    ):
        assert part in text
