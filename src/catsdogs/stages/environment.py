"""What a run is made with: commit, versions, processor, memory."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import resource
import subprocess

__all__ = ["describe_environment", "peak_memory_mb"]


def describe_environment():
    """Commit, versions and hardware, as a JSON-ready dictionary."""
    packages = ("tensorflow", "keras", "numpy", "pillow", "matplotlib")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def peak_memory_mb():
    """Most memory this process has held so far, in MiB, mapped files that were touched included."""
    try:
        # Not getrusage, which on Linux begins with the peak of the process that started this one.
        status = pathlib.Path("/proc/self/status").read_text()
        return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
    except OSError:  # another system: bytes there
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)


def _commit():
    """Hash of the checked-out commit, with `+changes` if files differ; `None` outside git."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", ":/src", ":/scripts"], capture_output=True
        )
    except OSError:
        return None
    if found.returncode:
        return None
    return found.stdout.decode().strip() + ("+changes" if status.stdout.strip() else "")


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
