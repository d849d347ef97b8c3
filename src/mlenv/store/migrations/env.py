"""What Alembic runs: all steps that are due, on the connection it is given, in one transaction."""

from alembic import context

from mlenv.faults import reach
from mlenv.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    on_version_apply=lambda **_: reach("migration.step"),
)
context.run_migrations()
