"""The command line: parse, call a service, print."""

import sys

if "typing_extensions" not in sys.modules:
    # NOTE: msgspec takes functions from there if it can, and else the same from `typing`. Importing it takes as long as a
    # tenth of a short command. No other thread runs yet that could miss it.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules["typing_extensions"]
