"""Make .venv, or the folder that VENV names, and install hatlab into it.

`make` runs this, with Python's standard library alone. It is written so that an old Python can start it and say what is
missing.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys

PYTHONS = ((3, 11), (3, 12), (3, 13))
VENV = os.environ.get("VENV") or ".venv"
INSTALLING = os.path.join(VENV, ".installing")  # there from before the first file to after the last one
INSTALLED = os.path.join(VENV, ".installed")
SCRIPTS = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")


def python_problem(version, can_make_venv):
    """Say why a Python of this version cannot be used, or return None."""
    if tuple(version[:2]) not in PYTHONS:
        known = ", ".join("%d.%d" % python for python in PYTHONS)
        found = "%s is Python %d.%d" % (sys.executable, version[0], version[1])
        return "hatlab runs on Python %s; %s.\nName another one: make PYTHON=/path/to/python" % (known, found)
    if not can_make_venv:
        return (
            "%s cannot make virtual environments: its module 'ensurepip' is missing.\n"
            "Debian and Ubuntu keep it apart: sudo apt install python%d.%d-venv"
            % (sys.executable, version[0], version[1])
        )
    return None


def machine_problem(system, machine, free_bytes, cpu_torch):
    """Say why PyTorch cannot be installed on this machine, or return None."""
    if (system, machine) == ("Darwin", "x86_64"):
        return (
            "PyTorch 2.3 and later are not built for Intel Macs. On Apple silicon this is a Python for Intel: "
            "name one for arm64 with make PYTHON=/path/to/python"
        )
    # .venv holds 6.4 GB with PyTorch's CUDA libraries, about 2 GB without; the rest is for the downloads.
    need = 10 if system == "Linux" and not cpu_torch else 4
    if free_bytes < need * 10**9:
        return "%s needs %d GB of free disk space, and %s has %.1f GB." % (
            os.path.abspath(VENV),
            need,
            os.getcwd(),
            free_bytes / 1e9,
        )
    return None


def can_make_venv():
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return False
    return True


def begin():
    """Make a fresh .venv, or keep the whole one that is there; return whether there was one."""
    if os.path.exists(INSTALLED):
        os.replace(INSTALLED, INSTALLING)
        return True
    if os.path.exists(INSTALLING):
        print("The last installation was cut short: starting %s again." % VENV)
        for entry in os.scandir(VENV):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.path != INSTALLING:
                os.remove(entry.path)
    elif os.path.exists(VENV):
        sys.exit(
            "%s was not made by make, so make leaves it alone. Use it without make (hatlab, pytest, jupyter lab), "
            "or move it away." % os.path.abspath(VENV)
        )
    free = shutil.disk_usage(".").free
    problem = machine_problem(platform.system(), platform.machine(), free, os.environ.get("UV_TORCH_BACKEND") == "cpu")
    if problem:
        sys.exit(problem)
    os.makedirs(VENV, exist_ok=True)
    open(INSTALLING, "w").close()
    subprocess.check_call([sys.executable, "-m", "venv", VENV])
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check this Python")
    parser.add_argument("--uv", action="store_true", help="install with uv, which must be on PATH, instead of pip")
    parser.add_argument("--lock", default="requirements.lock", help="file of pins; '' for the newest in pyproject.toml")
    options = parser.parse_args()

    problem = python_problem(sys.version_info, can_make_venv())
    if problem:
        sys.exit(problem)
    if options.check:
        return
    updating = begin()
    python = os.path.join(SCRIPTS, "python")
    install = ["uv", "pip", "install", "--python", python] if options.uv else [python, "-m", "pip", "install"]
    install += ["--editable", ".[notebooks,dev,docs]"]
    # The lock is a set of constraints rather than a list to install: so one lock serves every build of
    # PyTorch (as a list it would bring CUDA's libraries to a CPU build).
    if options.lock:
        install += ["--constraint", options.lock]
    try:
        subprocess.check_call(install)
    except (OSError, subprocess.CalledProcessError) as error:
        if updating:  # pip and uv fetch everything before they change anything: what was there still works
            os.replace(INSTALLING, INSTALLED)
            sys.exit("Not updated (see above): %s\nTo go on without: touch %s" % (error, INSTALLED))
        sys.exit("Not installed (see above): %s\nThe next make starts again." % error)
    except KeyboardInterrupt:
        sys.exit("Cut short: the next make starts %s again." % VENV)
    os.replace(INSTALLING, INSTALLED)
    os.utime(INSTALLED)


if __name__ == "__main__":
    main()
