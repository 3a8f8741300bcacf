"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

from candlewick.kafka.jars import KAFKA_VERSION


def describe() -> dict[str, str]:
    """Return the machine's facts, by name. The load is what others did before we began."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]
    return {
        "CPU": cpu_model(),
        "cores": f"{usable} usable of {os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before": f"{load:.1f} over the last minute",
    }


def commit() -> str:
    """Return the commit that is measured, with a ``+`` where files differ; empty where no Git tells."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpu_model() -> str:
    """Return what the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of what takes part, by name."""
    names = ("candlewick", "faust-streaming", "aiokafka", "rocksdict", "msgspec")
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Kafka": KAFKA_VERSION,
        **{name: version(name) for name in names},
    }
