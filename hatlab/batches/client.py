"""Nbclient's client for a batch: with a limit to what it keeps of the output, and a word with a kernel in error."""

from __future__ import annotations

import ast
import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["ANSI", "TRACEBACK_LIMIT", "client_class", "cut"]

OUTPUT_LIMIT: Final = 10_000_000  # characters of output that an executed copy holds
LEFT_OUT: Final = f"\n[hatlab: more than {OUTPUT_LIMIT // 1_000_000} MB of output; the rest is left out]\n"
MESSAGE_LIMIT: Final = 2_000  # characters of an error's text
TRACEBACK_LIMIT: Final = 20_000
STARTUP_SECONDS: Final = 600  # for a kernel to start, on a machine that is busy
FRAMES: Final = "__import__('hatlab.batches.post_mortem', fromlist=['frames']).frames()"
FRAMES_SECONDS: Final = 10.0  # for a kernel to tell them
ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")


class Stopped(Exception):
    """The notebook was asked to stop, and another cell would have begun."""


def cut(text: str, most: int = MESSAGE_LIMIT) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def client_class() -> type:
    """Nbclient's client, with a limit to what it keeps of the output."""
    from nbclient import NotebookClient
    from papermill.translators import translate_parameters

    class Client(NotebookClient):
        def __init__(self, execution: Any, notebook: NotebookNode, manager: type) -> None:
            self.execution = execution
            self.room = OUTPUT_LIMIT
            self.kept = 0  # of the cell under way
            super().__init__(
                notebook,
                kernel_name="python3",
                kernel_manager_class=manager,
                startup_timeout=STARTUP_SECONDS,
                iopub_timeout=60,
                on_notebook_start=self.started,
                on_cell_execute=self.begin,
                on_cell_complete=self.sent,
                on_cell_executed=self.end,
                on_cell_error=self.note_error,
            )

        def started(self, **_: Any) -> None:
            assert self.kc is not None
            self.kc.hb_channel.unpause()

        def begin(self, cell: NotebookNode, **_: Any) -> None:
            if self.execution.stopping:
                raise Stopped("the notebook was stopped before this cell")
            self.execution.begin(cell.source.strip().splitlines()[0])
            self.kept, self.source = 0, cell.source
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell.source = translate_parameters("python3", "python", self.execution.parameters, "Parameters")

        def sent(self, cell: NotebookNode, **_: Any) -> None:
            cell.source = self.source  # as the copy shows it

        def end(self, **_: Any) -> None:
            self.execution.measure()
            with contextlib.suppress(OSError):  # while the notebook runs, a full disk costs nothing but the copy
                self.execution.save(self.nb)

        async def note_error(self, execute_reply: dict[str, Any], **_: Any) -> None:
            self.execution._traceback = list(execute_reply["content"]["traceback"])
            with contextlib.suppress(Exception):  # a kernel that cannot tell more
                self.execution._frames = await self.frames()

        async def frames(self) -> str:
            """Ask the kernel for the values in the error's frames."""
            client: Any = self.kc
            asked = client.execute("", silent=True, user_expressions={"frames": FRAMES})
            deadline = time.monotonic() + FRAMES_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                reply = await client.get_shell_msg(timeout=left)
                if reply["parent_header"].get("msg_id") == asked:
                    told = reply["content"]["user_expressions"]["frames"]["data"]["text/plain"]
                    return str(ast.literal_eval(told))[:TRACEBACK_LIMIT]
            return ""

        def output(self, outs: list[NotebookNode], msg: dict[str, Any], display_id: Any, cell_index: int) -> Any:
            content = msg["content"]
            if msg["msg_type"] == "stream":
                self.execution.output.extend(cut(line) for line in ANSI.sub("", content["text"]).splitlines())
            if msg["msg_type"] == "error":
                lines = [cut(line, TRACEBACK_LIMIT) for line in content["traceback"]]
                content = {**content, "evalue": cut(content["evalue"], TRACEBACK_LIMIT), "traceback": lines}
                return super().output(outs, {**msg, "content": content}, display_id, cell_index)
            if not outs or self.clear_before_next_output:  # what the cell has cleared counts no more
                self.room, self.kept = self.room + self.kept, 0
            if self.room < 0:
                return None
            size = _size(content)
            self.room, self.kept = self.room - size, self.kept + size
            if self.room < 0:
                if msg["msg_type"] != "stream":
                    content = {"name": "stderr", "text": ""}
                text = content["text"][: max(0, len(content["text"]) + self.room)] + LEFT_OUT
                header = {**msg["header"], "msg_type": "stream"}
                msg = {**msg, "msg_type": "stream", "header": header, "content": {**content, "text": text}}
            return super().output(outs, msg, display_id, cell_index)

    return Client


def _size(content: Any) -> int:
    if isinstance(content, dict):
        return sum(_size(value) for value in content.values())
    if isinstance(content, list):
        return sum(_size(value) for value in content)
    return len(content) if isinstance(content, str) else 8
