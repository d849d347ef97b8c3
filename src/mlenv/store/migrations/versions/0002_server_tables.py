"""A server's tables: namespaces, people, tokens, audit, answers, assets and files; and what is known of queued builds."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _sorted() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make them. What is new in `builds` and `versions` may be null, so that the program before goes on working."""

    op.create_table(
        "assets",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("kind", _sorted(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("version", _sorted(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("lookup", _sorted(), nullable=True),
        sa.Column("environment", _sorted(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("archived", sa.Integer(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("modified_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "kind", "name", "version"),
    )
    op.create_index("assets_by_environment", "assets", ["workspace", "environment"], unique=False)
    op.create_index("assets_by_lookup", "assets", ["workspace", "kind", "lookup"], unique=False)
    op.create_index("assets_by_sequence", "assets", ["workspace", "kind", "sequence"], unique=True)
    op.create_index("assets_by_status", "assets", ["kind", "status", "created_at"], unique=False)
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", _sorted(), nullable=False),
        sa.Column("scope", _sorted(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_index("audit_by_scope", "audit", ["scope", "sequence"], unique=False)
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "files",
        sa.Column("workspace", _sorted(), nullable=False),
        sa.Column("container", _sorted(), nullable=False),
        sa.Column("path", _sorted(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("modified_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "container", "path"),
    )
    op.create_table(
        "grants",
        sa.Column("principal", _sorted(), nullable=False),
        sa.Column("scope", _sorted(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("principal", "scope"),
    )
    op.create_table(
        "principals",
        sa.Column("id", _sorted(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("subject", _sorted(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("principals_by_name", "principals", ["name"], unique=True)
    op.create_index("principals_by_subject", "principals", ["subject"], unique=True)
    op.create_table(
        "replies",
        sa.Column("principal", _sorted(), nullable=False),
        sa.Column("key", _sorted(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", _sorted(), nullable=False),
        sa.PrimaryKeyConstraint("principal", "key"),
    )
    op.create_index("replies_by_time", "replies", ["created_at"], unique=False)
    op.create_table(
        "scopes",
        sa.Column("key", _sorted(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", _sorted(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("subscription", _sorted(), nullable=False),
        sa.Column("resource_group", _sorted(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("scopes_by_address", "scopes", ["subscription", "resource_group", "name"], unique=False)
    op.create_index("scopes_by_id", "scopes", ["id"], unique=True)
    op.create_table(
        "tokens",
        sa.Column("id", _sorted(), nullable=False),
        sa.Column("digest", _sorted(), nullable=False),
        sa.Column("principal", _sorted(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("only", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Text(), nullable=True),
        sa.Column("revoked_at", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("tokens_by_digest", "tokens", ["digest"], unique=True)
    op.create_index("tokens_by_principal", "tokens", ["principal"], unique=False)
    op.add_column("versions", sa.Column("details", sa.Text(), nullable=True))
    op.create_table(
        "workers",
        sa.Column("id", _sorted(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("builds", sa.Column("queued_at", sa.Text(), nullable=True))
    op.add_column("builds", sa.Column("compression", sa.Text(), nullable=True))
    op.add_column("builds", sa.Column("options", sa.Text(), nullable=True))
    op.add_column("builds", sa.Column("priority", sa.Integer(), nullable=True))
    op.add_column("builds", sa.Column("requested_by", sa.Text(), nullable=True))
    op.add_column("builds", sa.Column("attempts", sa.Integer(), nullable=True))
    op.add_column("builds", sa.Column("log", sa.Text(), nullable=True))
    op.create_index("environments_by_archived", "environments", ["workspace", "archived", "name"], unique=False)
    op.create_index("versions_by_archived", "versions", ["workspace", "name", "archived", "sequence"], unique=False)
    op.create_index("builds_by_start", "builds", ["workspace", "started_at", "id"], unique=False)
    op.create_index("builds_by_status", "builds", ["status", "workspace", "started_at", "id"], unique=False)

    # The end of an audit chain without records.
    op.execute("INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, '" + "0" * 64 + "')")


def downgrade() -> None:
    """Drop them, with all that is in them."""

    op.drop_index("builds_by_status", table_name="builds")
    op.drop_index("builds_by_start", table_name="builds")
    op.drop_index("versions_by_archived", table_name="versions")
    op.drop_index("environments_by_archived", table_name="environments")
    op.drop_column("builds", "log")
    op.drop_column("builds", "attempts")
    op.drop_column("builds", "requested_by")
    op.drop_column("builds", "priority")
    op.drop_column("builds", "options")
    op.drop_column("builds", "compression")
    op.drop_column("builds", "queued_at")
    op.drop_table("workers")
    op.drop_column("versions", "details")
    op.drop_index("tokens_by_principal", table_name="tokens")
    op.drop_index("tokens_by_digest", table_name="tokens")
    op.drop_table("tokens")
    op.drop_index("scopes_by_id", table_name="scopes")
    op.drop_index("scopes_by_address", table_name="scopes")
    op.drop_table("scopes")
    op.drop_index("replies_by_time", table_name="replies")
    op.drop_table("replies")
    op.drop_index("principals_by_subject", table_name="principals")
    op.drop_index("principals_by_name", table_name="principals")
    op.drop_table("principals")
    op.drop_table("grants")
    op.drop_table("files")
    op.drop_table("audit_head")
    op.drop_index("audit_by_scope", table_name="audit")
    op.drop_table("audit")
    op.drop_index("assets_by_sequence", table_name="assets")
    op.drop_index("assets_by_lookup", table_name="assets")
    op.drop_index("assets_by_environment", table_name="assets")
    op.drop_table("assets")
