"""Reading the files that a definition names, within limits."""

import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path
from typing import Final, Protocol

from mlenv.api.problems import FileProblem, InvalidSyntax, Place

#: The largest YAML, conda or requirements file, in bytes.
TEXT_LIMIT: Final = 1 << 20
#: The largest TOML file, in bytes: lock files list every file of every package.
TOML_LIMIT: Final = 16 << 20


class Read(Protocol):
    """Brings the text of a file that a definition names."""

    def __call__(self, path: Path, asked: Place, *, limit: int = TEXT_LIMIT) -> str:
        """
        The file's text.

        Args:
            path: Where it should be.
            asked: Where it is asked for.
            limit: The most it may measure, in bytes.

        Raises:
            FileProblem: It is not there, not a file, or too large.
            InvalidSyntax: It is not UTF-8.
        """


def read_text(path: Path, asked: Place, *, limit: int = TEXT_LIMIT) -> str:
    """Read a file from the disk (see `Read`)."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        hint = "a path in a file is relative to the directory of that file" if asked.line else None
        if asked.file == shown(path):
            message, hint = "no such file", f"a relative path is taken from the current directory, {os.getcwd()}"
        else:
            message = f"No such file or directory: {shown(path)}"
        raise FileProblem(message, asked, hint=hint) from error
    except IsADirectoryError as error:
        raise FileProblem(f"{path} is a directory, expected a file", asked) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FileProblem(f"can't read {str(path)!r}: {reason}", asked) from error
    if len(data) > limit:
        raise FileProblem(f"{path} is larger than {limit} bytes", asked, hint="is this the file you meant?")
    return decode(data, shown(path))


def no_files(path: Path, asked: Place, *, limit: int = TEXT_LIMIT) -> str:
    """For text that came over a wire: it may name no files (see `Read`)."""
    raise FileProblem(f"other files can't be read from here: {path}", asked, hint="write its content inline")


def decode(data: bytes, file: str) -> str:
    """
    UTF-8 as text, or UTF-16 if a byte order mark says so. Raises `InvalidSyntax`, naming the line.

    NOTE: UTF-16 is what `pip freeze > requirements.txt` writes in Windows PowerShell.
    """
    try:
        return data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise InvalidSyntax(
            f"not UTF-8 text: byte 0x{data[error.start]:02x}",
            Place(file, line, column),
            hint="save the file as UTF-8",
        ) from error


def shown(path: Path) -> str:
    """A path as people read it: relative to where they stand if it is below, otherwise as it is."""
    text = os.path.normpath(path)
    here = os.getcwd()
    if os.path.isabs(text) and text.startswith(here + os.sep):
        return os.path.relpath(text, here)
    return text
