"""Terminals of any width, and what commands print to them."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from typing import Any


def printed(*command: Any, columns: int, stream: str = "stdout") -> str:
    """What a command prints to a stream that is a terminal of so many columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        [str(word) for word in command], env=environment, stdin=subprocess.DEVNULL,
        **streams | {stream: its},
    ) as process:  # fmt: skip
        os.close(its)
        said = b""
        try:
            while piece := os.read(ours, 65536):
                said += piece
        except OSError:  # how the end of a terminal is told
            pass
    os.close(ours)
    assert process.returncode == 0, said
    return said.decode()
