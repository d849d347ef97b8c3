"""What the interpreter that runs this file is, as one JSON object on stdout. Standard library, Python 3.6 or later."""

import json
import os
import platform
import sys
import sysconfig


def probe() -> "dict[str, object]":
    """The facts of this interpreter, as plain data."""
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        glibc = None
    return {
        "version": ".".join(str(each) for each in sys.version_info[:3]),
        "release": sys.version_info[3],
        "implementation": platform.python_implementation(),
        "executable": getattr(sys, "_base_executable", None) or sys.executable,
        "prefix": getattr(sys, "base_prefix", sys.prefix),
        "system": platform.system(),
        "machine": platform.machine(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "glibc": glibc,
        "debug": hasattr(sys, "gettotalrefcount"),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()))
