"""What references environments, or is kept beside them: code, components, endpoints, deployments, jobs."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct

from mlenv.core.reference import check_name
from mlenv.errors import Conflict, NotFound


class AssetKind(StrEnum):
    """What an asset is. A deployment's name is `ENDPOINT/DEPLOYMENT`."""

    CODE = "code"
    COMPONENT = "component"
    ENDPOINT = "endpoint"
    DEPLOYMENT = "deployment"
    JOB = "job"

    @property
    def versioned(self) -> bool:
        """Whether its content is kept under versions that never change."""
        return self in {AssetKind.CODE, AssetKind.COMPONENT}


def check_asset_name(kind: AssetKind, name: str) -> str:
    """Check the name of an asset of a kind. Raises `InvalidName`."""
    for part in name.split("/") if kind is AssetKind.DEPLOYMENT else [name]:
        check_name(f"a valid {kind} name", part)
    return name


class Asset(Struct, frozen=True):
    """
    Something that a client keeps here as it sent it.

    Attributes:
        version: Empty for kinds without versions.
        sequence: Later assets of a namespace have higher numbers.
        document: What the client sent, as JSON data.
        lookup: What it is found by: a code's or component's content hash, a deployment's endpoint; None if by nothing.
        environment: The environment version that it uses: `NAME:VERSION` of the same namespace, or a whole reference
            into another; None if it uses none.
        status: Where a job stands; None for what has no status.
        archived: Hidden from lists, but still usable.
        created_at, modified_at: UTC.
    """

    kind: AssetKind
    name: str
    version: str
    sequence: int
    document: Mapping[str, Any]
    lookup: str | None
    environment: str | None
    status: str | None
    archived: bool
    created_at: datetime
    modified_at: datetime

    def __str__(self) -> str:
        return f"{self.kind} {self.name}:{self.version}" if self.version else f"{self.kind} {self.name}"


class AssetNotFound(NotFound):
    """There is no such code, component, endpoint, deployment or job."""

    def __init__(self, kind: AssetKind, name: str, version: str = "") -> None:
        super().__init__(f"there is no {kind} {name!r}" + (f" with version {version!r}" if version else ""))
        self.kind, self.name, self.version = kind, name, version


class AssetConflict(Conflict):
    """That version exists with other content."""

    hint = "leave the version out to get the next one, or name a version that is free"

    def __init__(self, kind: AssetKind, name: str, version: str) -> None:
        super().__init__(
            f"{kind.capitalize()} {name} with version {version} is already registered and cannot be changed"
        )
        self.kind, self.name, self.version = kind, name, version
