"""Repositories of images: their blobs, manifests and tags; and settings of namespaces."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def _sorted() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make them. The new column may be null, so that the program before goes on working."""

    op.create_table(
        "repository_blobs",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("repository", _sorted(), nullable=False),
        sa.Column("digest", _sorted(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _sorted(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "repository", "digest"),
    )
    op.create_index("repository_blobs_by_digest", "repository_blobs", ["digest", "workspace"], unique=False)
    op.create_index("repository_blobs_by_time", "repository_blobs", ["created_at"], unique=False)
    op.create_table(
        "manifests",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("repository", _sorted(), nullable=False),
        sa.Column("digest", _sorted(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("subject", _sorted(), nullable=True),
        sa.Column("artifact_type", _sorted(), nullable=True),
        sa.Column("annotations", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "repository", "digest"),
    )
    op.create_index("manifests_by_subject", "manifests", ["workspace", "repository", "subject", "digest"], unique=False)
    op.create_table(
        "repository_tags",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("repository", _sorted(), nullable=False),
        sa.Column("tag", _sorted(), nullable=False),
        sa.Column("folded", _sorted(), nullable=False),
        sa.Column("digest", _sorted(), nullable=False),
        sa.Column("modified_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "repository", "tag"),
    )
    op.create_index(
        "repository_tags_in_order", "repository_tags", ["workspace", "repository", "folded", "tag"], unique=False
    )
    op.create_index("repository_tags_by_digest", "repository_tags", ["workspace", "repository", "digest"], unique=False)
    op.add_column("scopes", sa.Column("settings", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop them, with all that is in them."""

    op.drop_column("scopes", "settings")
    op.drop_index("repository_tags_by_digest", table_name="repository_tags")
    op.drop_index("repository_tags_in_order", table_name="repository_tags")
    op.drop_table("repository_tags")
    op.drop_index("manifests_by_subject", table_name="manifests")
    op.drop_table("manifests")
    op.drop_index("repository_blobs_by_time", table_name="repository_blobs")
    op.drop_index("repository_blobs_by_digest", table_name="repository_blobs")
    op.drop_table("repository_blobs")
