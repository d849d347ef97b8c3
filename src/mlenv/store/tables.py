"""
The tables, as SQLAlchemy Core knows them. Only text and integers, so that every database means the same by them.

Times are UTC in RFC 3339 with microseconds, all of one length, so that they sort as text. JSON is text. Yes and no are
1 and 0. Rows that belong to a team carry its workspace; layers and facts are named by their content and belong to all.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, MetaData, Table, Text

metadata: Final = MetaData()

#: Text that sorts by code point everywhere; PostgreSQL would otherwise sort by the database's language.
_SORTED = Text().with_variant(Text(collation="C"), "postgresql")


def _key(name: str) -> Column[str]:
    return Column(name, _SORTED, primary_key=True)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


environments: Final = Table(
    "environments",
    metadata,
    _key("workspace"),
    _key("name"),
    Column("archived", Integer, nullable=False),
    # What is computed from the versions is kept here, so that its cost does not grow with them.
    Column("latest_version", Text),
    _text("next_version"),
    Column("last_sequence", BigInteger, nullable=False),
    _text("created_at"),
    _text("modified_at"),
    Index("environments_by_archived", "workspace", "archived", "name"),
)

specs: Final = Table("specs", metadata, _key("workspace"), _key("document_digest"), _text("document"))

versions: Final = Table(
    "versions",
    metadata,
    _key("workspace"),
    _key("name"),
    _key("version"),
    # 1 for the version of this environment that was created first. Clocks may jump; this does not.
    Column("sequence", BigInteger, nullable=False),
    _text("spec_digest"),
    Column("document_digest", _SORTED, nullable=False),
    Column("description", Text),
    _text("tags"),
    Column("archived", Integer, nullable=False),
    _text("created_at"),
    _text("modified_at"),
    # JSON, or null for none.
    Column("details", Text),
    ForeignKeyConstraint(["workspace", "name"], ["environments.workspace", "environments.name"]),
    ForeignKeyConstraint(["workspace", "document_digest"], ["specs.workspace", "specs.document_digest"]),
    Index("versions_by_sequence", "workspace", "name", "sequence", unique=True),
    Index("versions_by_archived", "workspace", "name", "archived", "sequence"),
)


def _of_version() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["workspace", "name", "version"], ["versions.workspace", "versions.name", "versions.version"]
    )


labels: Final = Table(
    "labels",
    metadata,
    _key("workspace"),
    _key("name"),
    _key("label"),
    # Every place a label ever pointed to stays; the highest number is where it points now.
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("version", _SORTED, nullable=False),
    _text("set_at"),
    _of_version(),
)

locks: Final = Table(
    "locks",
    metadata,
    _key("workspace"),
    _key("name"),
    _key("version"),
    _key("platform"),
    _text("digest"),
    _text("created_at"),
    _of_version(),
)

layers: Final = Table(
    "layers",
    metadata,
    _key("key"),
    _text("digest"),
    _text("diff_id"),
    Column("size", BigInteger, nullable=False),
    _text("media_type"),
)

images: Final = Table(
    "images",
    metadata,
    _key("workspace"),
    _key("lock"),
    _key("base"),
    _key("spec"),
    _key("compression"),
    _text("descriptor"),
    _text("created_at"),
)

bases: Final = Table(
    "bases", metadata, _key("workspace"), _key("name"), _text("digest"), _text("modified_at")
)  # fmt: skip

facts: Final = Table("facts", metadata, _key("digest"), _text("document"))

builds: Final = Table(
    "builds",
    metadata,
    _key("workspace"),
    _key("id"),
    Column("name", _SORTED, nullable=False),
    Column("version", _SORTED, nullable=False),
    _text("platform"),
    _text("status"),
    _text("started_at"),
    Column("ended_at", Text),
    Column("image", Text),
    Column("error", Text),
    _text("steps"),
    # Of builds that were queued; null for those that were made at once. A queued build's `started_at` is when it came.
    Column("queued_at", Text),
    Column("compression", Text),
    Column("options", Text),
    Column("priority", Integer),
    Column("requested_by", Text),
    Column("attempts", Integer),
    Column("log", Text),
    _of_version(),
    Index("builds_by_version", "workspace", "name", "version", "started_at"),
    Index("builds_by_start", "workspace", "started_at", "id"),
    Index("builds_by_status", "status", "workspace", "started_at", "id"),
)

uses: Final = Table(
    "uses",
    metadata,
    _key("workspace"),
    _key("id"),
    Column("name", _SORTED, nullable=False),
    Column("version", _SORTED, nullable=False),
    _text("kind"),
    _text("engine"),
    _text("lock"),
    _text("command"),
    _text("user"),
    _text("host"),
    _text("started_at"),
    Column("image", Text),
    Column("exit_code", Integer),
    Column("ended_at", Text),
    _of_version(),
    Index("uses_by_version", "workspace", "name", "version", "started_at"),
    Index("uses_by_name", "workspace", "name", "started_at"),
)

# What follows is a server's alone.

scopes: Final = Table(
    "scopes",
    metadata,
    _key("key"),
    _text("kind"),
    Column("name", _SORTED, nullable=False),
    _text("id"),
    Column("subscription", _SORTED, nullable=False),
    # `group` is a word of SQL.
    Column("resource_group", _SORTED, nullable=False),
    _text("location"),
    _text("created_at"),
    # What the namespace's users have set, as JSON; null for nothing.
    Column("settings", Text),
    Index("scopes_by_id", "id", unique=True),
    Index("scopes_by_address", "subscription", "resource_group", "name"),
)

principals: Final = Table(
    "principals",
    metadata,
    _key("id"),
    Column("name", _SORTED, nullable=False),
    # `issuer subject` of a person who logs in elsewhere; null for a program.
    Column("subject", _SORTED),
    _text("created_at"),
    Index("principals_by_name", "name", unique=True),
    Index("principals_by_subject", "subject", unique=True),
)

grants: Final = Table("grants", metadata, _key("principal"), _key("scope"), _text("role"), _text("created_at"))

tokens: Final = Table(
    "tokens",
    metadata,
    _key("id"),
    # The sha256 of the secret, in hex. The secret itself is not kept.
    Column("digest", _SORTED, nullable=False),
    Column("principal", _SORTED, nullable=False),
    _text("name"),
    # A JSON list of namespaces, or null for all that the principal may.
    Column("only", Text),
    _text("created_at"),
    Column("expires_at", Text),
    Column("revoked_at", Text),
    Index("tokens_by_digest", "digest", unique=True),
    Index("tokens_by_principal", "principal"),
)

audit: Final = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", _SORTED, nullable=False),
    Column("scope", _SORTED, nullable=False),
    # The record as JSON, as `AuditRecord.to_dict` has it.
    _text("document"),
    _text("hash"),
    Index("audit_by_scope", "scope", "sequence"),
)

#: One row: the end of the audit chain. Whoever writes a record holds it until the transaction ends.
audit_head: Final = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    _text("hash"),
)

#: Answers to creates that were sent with an idempotency key.
replies: Final = Table(
    "replies",
    metadata,
    _key("principal"),
    _key("key"),
    _text("request"),
    Column("status", Integer, nullable=False),
    _text("body"),
    Column("created_at", _SORTED, nullable=False),
    Index("replies_by_time", "created_at"),
)

#: What references environments and is kept as it was sent: components, endpoints, deployments, code, jobs.
assets: Final = Table(
    "assets",
    metadata,
    _key("workspace"),
    _key("kind"),
    _key("name"),
    # Empty for kinds without versions.
    _key("version"),
    Column("sequence", BigInteger, nullable=False),
    # What it is found by, such as a code's hash; null if by nothing.
    Column("lookup", _SORTED),
    # The environment version that it uses, or null.
    Column("environment", _SORTED),
    Column("status", Text),
    Column("archived", Integer, nullable=False),
    _text("document"),
    _text("created_at"),
    _text("modified_at"),
    Index("assets_by_sequence", "workspace", "kind", "sequence", unique=True),
    Index("assets_by_lookup", "workspace", "kind", "lookup"),
    Index("assets_by_environment", "workspace", "environment"),
    Index("assets_by_status", "kind", "status", "created_at"),
)

#: Files by name, for clients that speak the blob dialect; the bytes are in the blob store.
files: Final = Table(
    "files",
    metadata,
    _key("workspace"),
    _key("container"),
    _key("path"),
    _text("digest"),
    Column("size", BigInteger, nullable=False),
    _text("metadata"),
    _text("created_at"),
    _text("modified_at"),
)

#: Processes that work for the queue. A row whose number no longer grows is of one that is dead.
workers: Final = Table(
    "workers",
    metadata,
    _key("id"),
    _text("host"),
    Column("beat", BigInteger, nullable=False),
    _text("started_at"),
)

#: Which repository has which blob. The bytes are kept once, for all.
repository_blobs: Final = Table(
    "repository_blobs",
    metadata,
    _key("workspace"),
    _key("repository"),
    _key("digest"),
    Column("size", BigInteger, nullable=False),
    Column("created_at", _SORTED, nullable=False),
    Index("repository_blobs_by_digest", "digest", "workspace"),
    Index("repository_blobs_by_time", "created_at"),
)

#: Manifests of repositories. Their bytes are blobs.
manifests: Final = Table(
    "manifests",
    metadata,
    _key("workspace"),
    _key("repository"),
    _key("digest"),
    _text("media_type"),
    Column("size", BigInteger, nullable=False),
    Column("subject", _SORTED),
    Column("artifact_type", _SORTED),
    # JSON, or null for none.
    Column("annotations", Text),
    _text("created_at"),
    Index("manifests_by_subject", "workspace", "repository", "subject", "digest"),
)

#: Tags that were pushed. Those of environments' repositories are computed, and have no rows.
repository_tags: Final = Table(
    "repository_tags",
    metadata,
    _key("workspace"),
    _key("repository"),
    _key("tag"),
    # In lowercase: what tags are listed by.
    Column("folded", _SORTED, nullable=False),
    Column("digest", _SORTED, nullable=False),
    _text("modified_at"),
    Index("repository_tags_in_order", "workspace", "repository", "folded", "tag"),
    Index("repository_tags_by_digest", "workspace", "repository", "digest"),
)
