"""How environments and versions become rows, and rows those."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from mlenv.core.digest import Digest
from mlenv.core.environment import Environment, EnvironmentVersion
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.spec import WrittenSpec, canonical_json
from mlenv.store.database import Row


def from_time(time: datetime) -> str:
    """RFC 3339 in UTC with microseconds: all of one length, so that they sort as text."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def to_time(text: str) -> datetime:
    """What `from_time` gave."""
    return datetime.fromisoformat(text)


def to_environments(page: list[Row]) -> list[Environment]:
    """Environments from their rows, which have their labels. The rows are used up."""
    for row in page:
        labels = row["labels"]
        row["labels"] = dict(sorted(json.loads(labels).items())) if labels else {}
        row["archived"] = bool(row["archived"])
    return msgspec.convert(page, list[Environment])


def to_version(row: Row, *, archived: bool) -> EnvironmentVersion:
    """A version from its row, joined with its spec. `archived`: its environment is."""
    return EnvironmentVersion(
        name=EnvironmentName(row["name"]),
        version=VersionName(row["version"]),
        written=WrittenSpec(row["document"], Digest.parse(row["spec_digest"])),
        description=row["description"],
        tags=json.loads(row["tags"]),
        archived=archived or bool(row["archived"]),
        created_at=to_time(row["created_at"]),
        modified_at=to_time(row["modified_at"]),
        details=json.loads(row["details"] or "{}"),
    )


def from_details(details: Mapping[str, Any]) -> str | None:
    """Details as JSON, or None for none."""
    return canonical_json(dict(details)) if details else None


def from_tags(tags: Mapping[str, str]) -> str:
    """Tags as JSON, by name, so that equal tags are equal text."""
    return canonical_json(dict(tags))
