"""The statements over files by name, as `mlenv.store.statements` has the others. Only servers make them."""

from typing import Final

from sqlalchemy import Executable, and_, bindparam, delete, insert, select, update

from mlenv.store.statements import is_parameter
from mlenv.store.tables import files

_KEY: Final = ("workspace", "container", "path")
_CHANGING: Final = ("digest", "size", "metadata", "created_at", "modified_at")
_WHICH: Final = and_(*(files.c[column] == bindparam(f"the_{column}") for column in _KEY))

STATEMENTS: Final[dict[str, Executable]] = {
    "file": select(files).where(is_parameter(files, *_KEY)),
    "file_to_change": select(files).where(is_parameter(files, *_KEY)).with_for_update(),
    # Rows without a digest are no files: they mark what is sealed.
    "files": select(files)
    .where(
        is_parameter(files, "workspace", "container"),
        files.c.path >= bindparam("first"),
        files.c.path < bindparam("end"),
        files.c.path > bindparam("after"),
        files.c.digest != "",
    )
    .order_by(files.c.path)
    .limit(bindparam("limit")),
    "insert_file": insert(files).values({column.name: bindparam(column.name) for column in files.columns}),
    "update_file": update(files).where(_WHICH).values({name: bindparam(name) for name in _CHANGING}),
    "delete_old_files": delete(files).where(
        is_parameter(files, "workspace", "container"),
        files.c.path >= bindparam("first"),
        files.c.path < bindparam("end"),
        files.c.created_at < bindparam("before"),
    ),
}
