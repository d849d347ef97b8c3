"""Environments and their versions, as the registry keeps them."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

from mlenv.core.reference import EnvironmentName, LabelName, VersionName
from mlenv.core.spec import Spec, WrittenSpec


class View(StrEnum):
    """Which entries a list shows, in Azure's words."""

    ACTIVE = "ActiveOnly"
    ARCHIVED = "ArchivedOnly"
    ALL = "All"


class Definition(Struct, frozen=True):
    """
    What a user hands in: a spec with the name it should have.

    Attributes:
        name: The environment's name.
        version: The version, or None for an automatic one.
        spec: The content.
        description: Free text, or None.
        tags: Free text by free text.
        warnings: What the user should know about the files, one sentence each.
        details: What goes with the version and says nothing of its content (`properties`, `stage` and the like, as
            Azure's client has them), as JSON data. Given anew, its entries replace stored ones.
    """

    name: EnvironmentName
    spec: Spec
    version: VersionName | None = None
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


class EnvironmentVersion(Struct, frozen=True):
    """
    One immutable spec under a name. Only description, tags, details and archived ever change.

    Attributes:
        written: The spec, as it is stored.
        archived: This version is hidden from lists by itself, or its environment is archived. Still usable.
        created_at, modified_at: UTC.
        details: As in `Definition`.
    """

    name: EnvironmentName
    version: VersionName
    written: WrittenSpec
    description: str | None
    tags: Mapping[str, str]
    archived: bool
    created_at: datetime
    modified_at: datetime
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> Spec:
        """The spec."""
        return self.written.read()

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


class Environment(Struct, frozen=True):
    """
    A name, with what is known of it as a whole.

    Attributes:
        latest_version: The version created last, archived or not; None only while there is none.
        next_version: What an automatic version would be.
        labels: Movable pointers, without the computed `latest`.
    """

    name: EnvironmentName
    latest_version: VersionName | None
    next_version: VersionName
    archived: bool
    labels: Mapping[LabelName, VersionName]
    created_at: datetime
    modified_at: datetime


class LabelChange(Struct, frozen=True):
    """A label was pointed at a version, at a time (UTC)."""

    label: LabelName
    version: VersionName
    at: datetime
