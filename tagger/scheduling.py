"""Asks the operating system for long turns on a core, for work that keeps it busy for minutes.

A turn of some milliseconds is right for programs that people wait for. A CNN and a JPEG decoder that take
turns on one core throw each other's data out of its caches at every change: with 2 CNN threads and 2 decoders
on 2 cores, decoding took 1.45 ms an image in the usual turns and 1.25 ms in long ones, the CNN 2.45 and
2.34 ms. Whoever wakes up with little to do (readers, servers, a shell) still goes first.
"""

import contextlib
import ctypes
import os
import platform
import struct
import threading
from typing import Final

_TURN_NS: Final = 100_000_000  # the longest that Linux grants

_YIELDING: Final = 5  # a third of the share of a thread at 0, when both are busy

_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}  # system call numbers; libc has no name for it

_SCHED_ATTR: Final = "=IIQiIQQQ"  # size, policy, flags, nice, priority, runtime, deadline, period


def take_long_turns() -> bool:
    """Have this thread, and those it starts from now on, run as batch work in turns of 100 ms.

    Linux grants the length since 6.12 (sched_setattr(2), «custom slices»); before, it is only batch work.

    Returns:
        Whether the system took it; where not, nothing has changed.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    request = struct.pack(
        _SCHED_ATTR, struct.calcsize(_SCHED_ATTR), os.SCHED_BATCH, 0, nice, 0, _TURN_NS, 0, 0
    )
    with contextlib.suppress(OSError, AttributeError):  # a sandbox may forbid it
        return bool(ctypes.CDLL(None).syscall(number, 0, request, 0) == 0)
    return False


def give_way() -> None:
    """Let the process's other threads go first on a core that this one shares with them; Linux only.

    An event loop that wakes then need not wait for the slice of a thread that computes: with one core, half
    of the refusals at four times the promised load came within 0.5 ms instead of 0.9.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _YIELDING)
