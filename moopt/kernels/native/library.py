"""library: the compiled host kernels, where somebody has built them for this machine."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

COMMAND = "python -m moopt.kernels.native"
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wno-psabi", "-fopenmp", "-shared", "-fPIC"),
)
"""No flag lets the compiler reorder a sum: the order is that of the source."""

_HERE = Path(__file__).parent
_SOURCE = _HERE / "kernels.cpp"


def library_path() -> Path:
    """Where a library of this source for this machine's processor lies, built or not."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = next((li for li in lines if li.startswith(("flags", "Features"))), "")
    parts = (_SOURCE.read_text(), *FLAGS, platform.machine(), features)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return _HERE / f"kernels-{key}.so"


def build() -> Path:
    """Compile the kernels with $CXX, or c++, into this package's folder.

    Raises:
        RuntimeError: the compiler fails; with its words.
        OSError: there is no such compiler, or the folder cannot be written to.
    """
    path, compiler = library_path(), shlex.split(os.environ.get("CXX", "c++"))
    with tempfile.TemporaryDirectory(dir=_HERE) as folder:
        built = Path(folder) / path.name
        command = [*compiler, *FLAGS, str(_SOURCE), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"{shlex.join(command)} failed with exit code {done.returncode}:\n{done.stderr}"
            )
        built.replace(path)  # at once: another process may be about to load it
    library.cache_clear()
    return path


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The library for this source and this processor; or None, and why."""
    path = library_path()
    if not path.exists():
        return None, f"the compiled kernels are not built: {COMMAND}"
    try:
        return ctypes.CDLL(str(path)), ""
    except OSError as error:
        return None, str(error)
