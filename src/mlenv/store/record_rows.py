"""How layers, images, facts, builds and uses become rows, and rows those."""

import json
from datetime import datetime
from typing import Any, TypeAlias

from mlenv.core.digest import Digest
from mlenv.core.facts import BaseFacts, Interpreter
from mlenv.core.image import Descriptor
from mlenv.core.layer import Compression, Layer
from mlenv.core.platform import Glibc, Platform
from mlenv.core.records import BuildRecord, BuildStatus, TimedStep, UseRecord
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.spec import canonical_json
from mlenv.store.database import Row
from mlenv.store.rows import from_time, to_time

Cells: TypeAlias = dict[str, str | int | None]


def to_layer(row: Row) -> Layer:
    """A layer from its row."""
    return Layer(Digest.parse(row["digest"]), Digest.parse(row["diff_id"]), row["size"], row["media_type"])


def to_descriptor(row: Row) -> Descriptor:
    """The manifest in an image's row."""
    return Descriptor.from_dict(json.loads(row["descriptor"]))


def from_facts(facts: BaseFacts) -> str:
    """A base's facts as JSON."""
    document: dict[str, Any] = {
        "digest": str(facts.digest),
        "platform": str(facts.platform),
        "os_id": facts.os_id,
        "os_version": facts.os_version,
        "os_name": facts.os_name,
        "glibc": str(facts.glibc) if facts.glibc else None,
        "pythons": [[each.path, each.version, each.prefix, each.conda] for each in facts.pythons],
        "cuda": facts.cuda,
        "cudnn": facts.cudnn,
        "conda_prefixes": list(facts.conda_prefixes),
        "layers": facts.layers,
        "size": facts.size,
        "packages": facts.packages,
    }
    return canonical_json(document)


def to_facts(text: str) -> BaseFacts:
    """What `from_facts` gave."""
    document = json.loads(text)
    return BaseFacts(
        **document
        | {
            "digest": Digest.parse(document["digest"]),
            "platform": Platform.parse(document["platform"]),
            "glibc": Glibc.parse(document["glibc"]) if document["glibc"] else None,
            "pythons": tuple(Interpreter(*each) for each in document["pythons"]),
            "conda_prefixes": tuple(document["conda_prefixes"]),
        }
    )


def from_build(build: BuildRecord) -> Cells:
    """A build's row, without its workspace."""
    return {
        "id": build.id,
        "name": build.name,
        "version": build.version,
        "platform": str(build.platform),
        "status": build.status.value,
        "started_at": from_time(build.started_at),
        "ended_at": _optional_time(build.ended_at),
        "image": _optional(build.image),
        "error": build.error,
        "steps": json.dumps([[each.title, each.seconds, each.note] for each in build.steps], ensure_ascii=False),
        "queued_at": _optional_time(build.queued_at),
        "compression": build.compression.value if build.compression else None,
        "options": canonical_json(dict(build.options)) if build.options is not None else None,
        "priority": build.priority,
        "requested_by": build.requested_by,
        "attempts": build.attempts,
        "log": _optional(build.log),
    }


def to_build(row: Row) -> BuildRecord:
    """What `from_build` gave."""
    return BuildRecord(
        id=row["id"],
        name=EnvironmentName(row["name"]),
        version=VersionName(row["version"]),
        platform=Platform.parse(row["platform"]),
        status=BuildStatus(row["status"]),
        started_at=to_time(row["started_at"]),
        ended_at=to_time(row["ended_at"]) if row["ended_at"] else None,
        image=Digest.parse(row["image"]) if row["image"] else None,
        error=row["error"],
        steps=tuple(TimedStep(*each) for each in json.loads(row["steps"])),
        queued_at=to_time(row["queued_at"]) if row["queued_at"] else None,
        compression=Compression(row["compression"]) if row["compression"] else None,
        options=json.loads(row["options"]) if row["options"] else None,
        priority=row["priority"],
        requested_by=row["requested_by"],
        attempts=row["attempts"] or 0,
        log=Digest.parse(row["log"]) if row["log"] else None,
    )


def from_use(use: UseRecord) -> Cells:
    """A use's row, without its workspace."""
    return {
        "id": use.id,
        "name": use.name,
        "version": use.version,
        "kind": use.kind,
        "engine": use.engine,
        "lock": str(use.lock),
        "command": json.dumps(use.command),
        "user": use.user,
        "host": use.host,
        "started_at": from_time(use.started_at),
        "image": _optional(use.image),
        "exit_code": use.exit_code,
        "ended_at": _optional_time(use.ended_at),
    }


def to_use(row: Row) -> UseRecord:
    """What `from_use` gave."""
    return UseRecord(
        id=row["id"].rpartition("/")[2],
        name=EnvironmentName(row["name"]),
        version=VersionName(row["version"]),
        kind=row["kind"],
        engine=row["engine"],
        lock=Digest.parse(row["lock"]),
        command=tuple(json.loads(row["command"])),
        user=row["user"],
        host=row["host"],
        started_at=to_time(row["started_at"]),
        image=Digest.parse(row["image"]) if row["image"] else None,
        exit_code=row["exit_code"],
        ended_at=to_time(row["ended_at"]) if row["ended_at"] else None,
    )


def _optional(value: Digest | None) -> str | None:
    return None if value is None else str(value)


def _optional_time(time: datetime | None) -> str | None:
    return None if time is None else from_time(time)
