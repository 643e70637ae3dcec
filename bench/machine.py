"""What the numbers were measured on: cores, CPU, memory, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from tagger.settings import memory_bytes

_PACKAGES = (
    "tagger",
    "ray",
    "openvino",
    "torch",
    "timm",
    "pyarrow",
    "deltalake",
    "obstore",
    "simplejpeg",
    "pillow",
)
_PEERS = ("daft",)
_FLAGS = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")


def cores() -> int:
    """Return the CPUs this process may use, which is what every part of the bench is given."""
    return len(os.sched_getaffinity(0))


def describe(peer_packages: Path | None = None) -> dict[str, Any]:
    """Return the machine and the versions, for the JSON file and for docs/benchmarks.md.

    Args:
        peer_packages: site-packages of the peers' environment.
    """
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    if peer_packages is not None:
        for found in importlib.metadata.distributions(path=[str(peer_packages)]):
            if found.name in _PEERS:
                versions[found.name] = found.version
    return {
        "cores": cores(),
        "cpu": _cpu_name(),
        "memory_bytes": memory_bytes(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "versions": versions,
    }


def _cpu_name() -> str:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    best = [flag for flag in _FLAGS if flag in flags][:2]
    name = fields.get("model name", platform.machine())
    return f"{name} ({', '.join(best)})" if best else name
