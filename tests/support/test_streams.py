import fcntl
import io
import os
import subprocess
import sys

import pytest
from dead_streams import KINDS, dying

from hatlab.support.streams import Tolerant

SCRIPT = """\
import sys
from hatlab.support.streams import guard_standard_streams, tell_lost_output
guard_standard_streams()
sys.stdin.readline()  # until the stream is dead
for _ in range(20_000):
    print("some text")
    print("some text", file=sys.stderr)
tell_lost_output()
open(sys.argv[1], "w").close()
sys.exit(3)
"""


pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors of POSIX")


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("names", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_whose_streams_are_dead_comes_to_its_end(tmp_path, kind, names, buffered):
    writer, others = dying(kind)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **dict.fromkeys(names, writer)}
    command = [sys.executable, *([] if buffered else ["-u"]), "-c", SCRIPT, str(tmp_path / "end")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, text=True, env=environment, start_new_session=True, **streams
    )
    for descriptor in (writer, *others):
        os.close(descriptor)
    out, errors = process.communicate("\n", timeout=300)
    assert process.returncode == 3 and (tmp_path / "end").exists()
    if "stdout" not in names:
        assert out.count("some text\n") == 20_000
    if "stderr" not in names:
        lost = kind != "pipe"  # `head` has taken what it wanted
        assert errors.count("some text\n") == 20_000 and errors.count("part of the output is lost") == lost
        assert len(errors.splitlines()) == 20_000 + lost


def test_a_process_that_is_started_without_streams_opens_no_file_in_their_place(tmp_path):
    code = (
        "import sys\nfrom hatlab.support.streams import guard_standard_streams\nguard_standard_streams()\n"
        "file = open(sys.argv[1], 'w')\nprint('out')\nprint('error', file=sys.stderr)\n"
        "import os\nos.write(2, b'from C')\nfile.write('the file')"
    )
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code, str(tmp_path / "file")]
    assert subprocess.run(command).returncode == 0
    assert (tmp_path / "file").read_text() == "the file"


def test_a_reader_that_does_not_block_gets_all(tmp_path):
    """A pipe that was set not to block takes as much as it has room for."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "end")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    process.stdin.write(b"\n")
    process.stdin.close()
    with open(reader) as file:
        assert file.read() == "some text\n" * 20_000
    assert process.wait() == 3


def test_a_disk_that_is_full_for_a_while_has_what_follows():
    class Disk(io.StringIO):
        full = False

        def write(self, text):
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    disk = Disk()
    stream = Tolerant(disk)
    for full in (False, True, False):
        disk.full = full
        print(full, file=stream)
    assert disk.getvalue() == "False\nFalse\n"


def test_a_character_that_cannot_be_encoded_is_escaped():
    file = io.BytesIO()
    stream = io.TextIOWrapper(file, encoding="latin-1", newline="\n")
    print("0.5 ≤ 1", "\ud800", file=Tolerant(stream))
    assert file.getvalue() == b"0.5 \\u2264 1 \\ud800\n"


def test_a_stream_that_is_closed_or_not_there_takes_nothing():
    closed = io.StringIO()
    closed.close()
    for stream in (Tolerant(closed), Tolerant(None)):
        assert stream.write("text") == 4 and not stream.isatty()
