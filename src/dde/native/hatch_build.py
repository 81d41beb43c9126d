"""Compiles the kernels when a wheel or an editable install is made."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FOLDER = Path(__file__).parent
_SOURCES = ("dict_text.c", "lines.c")
# Contracted multiplications and additions would round differently on machines that have them.
_FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off")


class KernelHook(BuildHookInterface[Any]):
    """Adds the compiled kernels to a wheel; without them Python and NumPy give the same values.

    ``DDE_NATIVE=0`` leaves them out.
    """

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return a compiler that pip installs, where the machine has none."""
        return [] if _is_off() or _system_compiler() else ["ziglang>=0.13"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one of this platform."""
        if self.target_name != "wheel" or _is_off():
            return
        compiler = _system_compiler() or [sys.executable, "-m", "ziglang", "cc"]
        # Python takes no file with this ending for a module.
        library = _FOLDER / "kernels.shared"
        made = library.with_name(f"{library.name}.{os.getpid()}")
        try:
            command = [*compiler, *_FLAGS, *(str(_FOLDER / s) for s in _SOURCES), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
            if done.returncode:
                # Everything works without them, more slowly.
                self.app.display_warning(f"the kernels were not compiled; Python does their work: {done.stderr}")
                return
            # A process that has the old library open keeps using it.
            os.replace(made, library)
        finally:
            made.unlink(missing_ok=True)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(f"/src/dde/native/{library.name}")


def _platform() -> str:
    """Return the platform of the compiled library; on macOS Python's own may name two architectures, or an older one.

    On Linux this is ``linux-<machine>``, which package indexes refuse: auditwheel makes a manylinux tag of it.
    """
    name = sysconfig.get_platform()
    if not name.startswith("macosx-"):
        return name
    _, release, machine = name.split("-", 2)
    if machine not in ("arm64", "x86_64"):
        machine = platform.machine()
    release = os.environ.get("MACOSX_DEPLOYMENT_TARGET", release)
    # macOS 11 is the first on arm64, and the first whose tags leave out minor releases.
    major = int(release.partition(".")[0])
    if major >= 11 or machine == "arm64":
        release = f"{max(major, 11)}.0"
    return f"macosx-{release}-{machine}"


def _environment() -> dict[str, str]:
    """Return the environment of the compiler: on macOS the library must run on the release that the tag names."""
    name = _platform()
    target = {"MACOSX_DEPLOYMENT_TARGET": name.split("-")[1]} if name.startswith("macosx-") else {}
    return os.environ | target


def _is_off() -> bool:
    return os.environ.get("DDE_NATIVE", "1") == "0"


def _system_compiler() -> list[str]:
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        # CC may hold options after the name of the compiler.
        command = name.split()
        if command and shutil.which(command[0]):
            return command
    return []
