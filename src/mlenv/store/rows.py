"""How environments and versions become rows, and rows those."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from mlenv.core.environment import Environment, EnvironmentVersion
from mlenv.core.reference import EnvironmentName, LabelName, VersionName
from mlenv.core.spec import Spec, canonical_json
from mlenv.store.database import Row


def from_time(time: datetime) -> str:
    """RFC 3339 in UTC with microseconds: all of one length, so that they sort as text."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def to_time(text: str) -> datetime:
    """What `from_time` gave."""
    return datetime.fromisoformat(text)


def to_environments(page: Iterable[Row]) -> list[Environment]:
    """Environments by name, from their rows: each has a row for each of its labels, or one without."""
    found: dict[str, list[Row]] = {}
    for row in page:
        found.setdefault(row["name"], []).append(row)
    return [_to_environment(found[name]) for name in sorted(found)]


def _to_environment(its: list[Row]) -> Environment:
    row = its[0]
    latest, labels = row["latest_version"], {each["label"]: each["label_version"] for each in its if each["label"]}
    return Environment(
        name=EnvironmentName(row["name"]),
        latest_version=VersionName(latest) if latest is not None else None,
        next_version=VersionName(row["next_version"]),
        archived=bool(row["archived"]),
        labels={LabelName(label): VersionName(labels[label]) for label in sorted(labels)},
        created_at=to_time(row["created_at"]),
        modified_at=to_time(row["modified_at"]),
    )


def to_version(row: Row, *, archived: bool) -> EnvironmentVersion:
    """A version from its row, joined with its spec. `archived`: its environment is."""
    return EnvironmentVersion(
        name=EnvironmentName(row["name"]),
        version=VersionName(row["version"]),
        spec=Spec.from_dict(json.loads(row["document"])),
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
