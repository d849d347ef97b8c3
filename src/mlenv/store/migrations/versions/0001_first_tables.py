"""The first tables: environments, their versions, labels and locks; layers, images, bases; builds and uses."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _sorted() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make them."""

    op.create_table(
        "bases",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("modified_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "name"),
    )
    op.create_table(
        "environments",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("archived", sa.Integer(), nullable=False),
        sa.Column("latest_version", sa.Text(), nullable=True),
        sa.Column("next_version", sa.Text(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("modified_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "name"),
    )
    op.create_table(
        "facts",
        sa.Column("digest", _sorted(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "images",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("lock", _sorted(), nullable=False),
        sa.Column("base", _sorted(), nullable=False),
        sa.Column("spec", _sorted(), nullable=False),
        sa.Column("compression", _sorted(), nullable=False),
        sa.Column("descriptor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "lock", "base", "spec", "compression"),
    )
    op.create_table(
        "layers",
        sa.Column("key", _sorted(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("diff_id", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "specs",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("document_digest", _sorted(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "document_digest"),
    )
    op.create_table(
        "versions",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("version", _sorted(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("spec_digest", sa.Text(), nullable=False),
        sa.Column("document_digest", _sorted(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("archived", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("modified_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace", "document_digest"],
            ["specs.workspace", "specs.document_digest"],
        ),
        sa.ForeignKeyConstraint(
            ["workspace", "name"],
            ["environments.workspace", "environments.name"],
        ),
        sa.PrimaryKeyConstraint("workspace", "name", "version"),
    )
    op.create_index("versions_by_sequence", "versions", ["workspace", "name", "sequence"], unique=True)
    op.create_table(
        "builds",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("id", _sorted(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("version", _sorted(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.Text(), nullable=True),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("steps", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace", "name", "version"],
            ["versions.workspace", "versions.name", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("workspace", "id"),
    )
    op.create_index("builds_by_version", "builds", ["workspace", "name", "version", "started_at"], unique=False)
    op.create_table(
        "labels",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("label", _sorted(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", _sorted(), nullable=False),
        sa.Column("set_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace", "name", "version"],
            ["versions.workspace", "versions.name", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("workspace", "name", "label", "sequence"),
    )
    op.create_table(
        "locks",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("version", _sorted(), nullable=False),
        sa.Column("platform", _sorted(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace", "name", "version"],
            ["versions.workspace", "versions.name", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("workspace", "name", "version", "platform"),
    )
    op.create_table(
        "uses",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("id", _sorted(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("version", _sorted(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("lock", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("ended_at", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["workspace", "name", "version"],
            ["versions.workspace", "versions.name", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("workspace", "id"),
    )
    op.create_index("uses_by_name", "uses", ["workspace", "name", "started_at"], unique=False)
    op.create_index("uses_by_version", "uses", ["workspace", "name", "version", "started_at"], unique=False)


def downgrade() -> None:
    """Drop them, with all that is in them."""

    op.drop_index("uses_by_version", table_name="uses")
    op.drop_index("uses_by_name", table_name="uses")
    op.drop_table("uses")
    op.drop_table("locks")
    op.drop_table("labels")
    op.drop_index("builds_by_version", table_name="builds")
    op.drop_table("builds")
    op.drop_index("versions_by_sequence", table_name="versions")
    op.drop_table("versions")
    op.drop_table("specs")
    op.drop_table("layers")
    op.drop_table("images")
    op.drop_table("facts")
    op.drop_table("environments")
    op.drop_table("bases")
