"""Ask the server behind `forks` for a process; run as a program, be `moegrow` to a shell.

`python -I -S forked.py SOCKET ARGUMENT...` hands its own streams, folder and environment on, and
ends as the process does. It imports little, since a shell waits for it again and again.
"""

import json
import os
import signal
import socket
import sys

REAL = [sys.executable, "-m", "moegrow"]


class Asked:
    """A connection to the server: `child` is the number of the process, 0 where none was made.

    None is made where the environment has what Python and libraries read only as they start.
    """

    def __init__(self, where, arguments, *, environment, folder, streams):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(where)
        os.umask(umask := os.umask(0o77))
        request = json.dumps({
            "arguments": arguments, "environment": environment, "folder": folder, "umask": umask,
        }).encode()  # fmt: skip
        socket.send_fds(self.connection, [len(request).to_bytes(8, "big")], streams)
        self.connection.sendall(request)
        self.answers = self.connection.makefile()
        self.child = json.loads(self.answers.readline()).get("child", 0)

    def wait(self, timeout=None):
        """The exit code of the process, or minus the signal, the bytes that it took at most, and
        its seconds of processor time."""
        self.connection.settimeout(timeout)
        ended = json.loads(self.answers.readline())
        return ended["code"], ended["peak"], ended["seconds"]

    def close(self):
        """A process that has not ended is killed by this."""
        self.answers.close()
        self.connection.close()


def main():
    where, *arguments = sys.argv[1:]
    asked = Asked(
        where, arguments, environment=dict(os.environ), folder=os.getcwd(), streams=[0, 1, 2]
    )
    if not asked.child:
        os.execv(sys.executable, [*REAL, *arguments])
    code, *_ = asked.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
