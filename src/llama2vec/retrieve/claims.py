"""Names of machines and processes, for the leftovers of an index."""

from __future__ import annotations

import os
import socket


def host_name() -> str:
    """Name the machine; containers that share a name have their own process numbers, so those count too."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def is_running(pid: int) -> bool:
    """Tell whether a process of this machine lives; POSIX only, elsewhere asking would end it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
