"""Decode functions that misbehave on files that ask for it; the decoder's child imports them by name."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tagger.errors import ImageError
from tagger.vision import DecodeLimits, Facts, Framing, Picture
from tagger.vision.decode import decode as real_decode

FACTS = Facts(4, 3, "PNG", [], 1.0, 0.5, "0" * 16)

_hoard: list[bytes] = []


def decode(data: memoryview, framings: Sequence[Framing], limits: DecodeLimits) -> Picture:
    """Do what a file that begins with `!` says; decode any other."""
    if bytes(data[:1]) != b"!":
        return real_decode(data, framings, limits)
    order, _, argument = bytes(data[1:]).decode().partition(" ")
    match order:
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill-once":  # as if something outside had killed it
            if not Path(argument).exists():
                Path(argument).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            sys.exit(int(argument))
        case "spin":
            while True:
                pass
        case "spin-locked":  # C code that never gives the interpreter lock back
            ctypes.PyDLL(None).pause()
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hog":
            while True:
                _hoard.append(bytes(64 * 1024**2))
        case "sleep":
            time.sleep(float(argument))
        case "garbage":
            for fd in range(3, 1024):  # the parent may have many files open
                try:
                    os.write(fd, b"\xff" * 64)
                except OSError:
                    continue
        case "bug":
            raise KeyError(argument)
        case "refuse":
            raise ImageError("corrupt", argument)
        case "environment":
            raise ImageError("corrupt", " ".join(sorted(os.environ)))
        case "write":
            Path(argument).write_bytes(b"x" * 100)
        case "shrink":
            for fd in range(3, 1024):
                try:
                    os.ftruncate(fd, 0)
                except OSError:
                    continue
        case "modules":
            raise ImageError("corrupt", " ".join({name.partition(".")[0] for name in sys.modules}))
    pixels = [np.full((f.size_px, f.size_px, 3), 7, np.uint8) for f in framings]
    return Picture(pixels, FACTS)


def nonsense_facts(data: memoryview, framings: Sequence[Framing], limits: DecodeLimits) -> Picture:
    """Claim things about the picture that cannot be."""
    pixels = [np.zeros((f.size_px, f.size_px, 3), np.uint8) for f in framings]
    return Picture(pixels, Facts(-1, 3, "<script>", [], float("nan"), 2.0, "xyz"))
