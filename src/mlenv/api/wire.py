"""
Environments, versions, labels and specs as JSON, on the way between server and client.

For each value there is a model, which checks what comes in and is the schema of the OpenAPI document; a function
`…_document`, which writes a value of the core as plain data; and `to_core` of the model, which gives it back. Nothing is
lost either way. What goes out is not checked again: `encode` writes plain data once. Versions have `version_text` instead:
their specs are stored as they are sent, and not read in between.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic_core import to_json

from mlenv.api.wire_spec import SpecBody
from mlenv.core.environment import Definition, Environment, EnvironmentVersion, LabelChange
from mlenv.core.redact import redact
from mlenv.core.reference import EnvironmentName, LabelName, VersionName, parse_label, parse_name, parse_version
from mlenv.core.spec import WrittenSpec
from mlenv.errors import InvalidInput

T = TypeVar("T")

#: Lengths, in characters, and counts. `mlenv.service.environments` has the same, for whatever comes another way.
NAME_LIMIT: Final = 255
TAG_LIMIT: Final = 100
TAG_NAME_LIMIT: Final = 512
TEXT_LIMIT: Final = 65_536
#: Most entries of a page, and how many there are where nobody says.
PAGE_LIMIT: Final = 500
PAGE_DEFAULT: Final = 50

NameText = Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]
Tags = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=TAG_NAME_LIMIT)], Annotated[str, Field(max_length=TEXT_LIMIT)]],
    Field(max_length=TAG_LIMIT),
]
Details = Annotated[dict[Annotated[str, Field(max_length=TAG_NAME_LIMIT)], JsonValue], Field(max_length=TAG_LIMIT)]
DescriptionText = Annotated[str, Field(max_length=TEXT_LIMIT)]


#: What follows a version in the answer to its creation.
_NEW: Final = b',"new":'


class InvalidBody(InvalidInput):
    """
    What came over the wire is not what should come there.

    Attributes:
        faults: Path into the data and what is wrong there, in order.
    """

    def __init__(self, what: str, faults: Iterable[tuple[str, str]]) -> None:
        self.faults = tuple((path, redact(why)) for path, why in faults)
        shown = "; ".join(f"{path}: {why}" if path else why for path, why in self.faults[:5])
        super().__init__(f"{what}: {shown}")


class Wire(BaseModel):
    """What may come in: no field that is unknown, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Answer(BaseModel):
    """What a server answers. A client takes no notice of fields that a newer server adds."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


M = TypeVar("M")


def read(kind: type[M] | TypeAdapter[M], data: bytes | str, what: str = "the request") -> M:
    """
    JSON text as a model.

    Raises:
        InvalidBody: It is not JSON, or not that.
    """
    adapter = kind if isinstance(kind, TypeAdapter) else None
    try:
        if adapter is not None:
            return adapter.validate_json(data)
        return kind.model_validate_json(data)  # type: ignore[union-attr, no-any-return]
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidBody(what, ((_path(each["loc"]), each["msg"]) for each in found[:50])) from None
    except RecursionError as error:
        raise InvalidBody(what, [("", "it is nested too deeply")]) from error


def encode(document: Any) -> bytes:
    """Plain data as JSON text. Times are RFC 3339."""
    try:
        return msgspec.json.encode(document)
    except OverflowError:
        # It has an integer of more than 64 bits.
        return to_json(document)


def page_document(entries: Iterable[T], document: Callable[[T], Mapping[str, Any]], next: str | None) -> dict[str, Any]:
    """One page of a list: its entries, and the cursor of the next page, or None on the last."""
    return {"value": [document(each) for each in entries], "next": next}


def _path(location: Iterable[str | int]) -> str:
    path = ""
    for each in location:
        path += f"[{each}]" if isinstance(each, int) else f".{each}" if path else each
    return path


class DefinitionBody(Wire):
    """What is registered: a spec with the name it should have, and a version unless the next one is to be chosen."""

    name: NameText
    version: NameText | None = None
    description: DescriptionText | None = None
    tags: Tags = {}
    details: Details = Field({}, description="What goes with the version and says nothing of its content.")
    spec: SpecBody

    def to_core(self) -> Definition:
        """
        The definition, with its spec checked as one from a file is.

        Raises:
            InvalidName: Name or version is none.
            InvalidInput, ExceptionGroup: The spec has faults.
        """
        return Definition(
            parse_name(self.name),
            self.spec.to_core(),
            None if self.version is None else parse_version(self.version),
            self.description,
            dict(self.tags),
            details=dict(self.details),
        )


class ChangeBody(Wire):
    """What is to change of a version; what is left out stays."""

    description: DescriptionText | None = Field(None, description='The new one; `""` for none.')
    tags: Tags | None = Field(None, description="All tags from now on.")
    set_tags: Tags = Field({}, description="Tags that are added, or get another value, after that.")
    remove_tags: Annotated[list[str], Field(max_length=TAG_LIMIT)] = Field(
        [], description="Names of tags that go, after that."
    )
    archived: bool | None = Field(None, description="Whether this version by itself is archived.")


class ArchivedBody(Wire):
    """Whether an environment is archived, with all its versions."""

    archived: bool


class LabelBody(Wire):
    """Where a label is to point."""

    version: NameText


class VersionAnswer(Answer):
    """One immutable version."""

    name: str
    version: str
    digest: str = Field(description="The sha256 of what was asked for: equal for two versions of the same content.")
    spec: SpecBody
    description: str | None
    tags: dict[str, str]
    details: dict[str, JsonValue] = {}
    archived: bool
    created_at: AwareDatetime
    modified_at: AwareDatetime

    def to_core(self) -> EnvironmentVersion:
        """The version. Its spec was checked when it was registered."""
        return EnvironmentVersion(
            EnvironmentName(self.name),
            VersionName(self.version),
            WrittenSpec.of(self.spec.unchecked()),
            self.description,
            self.tags,
            self.archived,
            self.created_at,
            self.modified_at,
            self.details,
        )


class CreatedAnswer(VersionAnswer):
    """A version, and whether it is new; otherwise the same content was there before."""

    new: bool


class EnvironmentAnswer(Answer):
    """A name, with what is known of it as a whole."""

    name: str
    latest_version: str | None
    next_version: str
    archived: bool
    labels: dict[str, str] = Field(description="Movable pointers, without the computed `latest`.")
    created_at: AwareDatetime
    modified_at: AwareDatetime

    def to_core(self) -> Environment:
        """The environment."""
        return Environment(
            EnvironmentName(self.name),
            None if self.latest_version is None else VersionName(self.latest_version),
            VersionName(self.next_version),
            self.archived,
            {LabelName(label): VersionName(version) for label, version in self.labels.items()},
            self.created_at,
            self.modified_at,
        )


class LabelChangeAnswer(Answer):
    """A label was pointed at a version."""

    label: str
    version: str
    at: AwareDatetime

    def to_core(self) -> LabelChange:
        """The change."""
        return LabelChange(parse_label(self.label), VersionName(self.version), self.at)


class LabelAnswer(Answer):
    """A label: where it points, and where it pointed, the newest first."""

    label: str
    version: str
    history: list[LabelChangeAnswer] = Field(description="Empty for `latest`, which is computed.")


class VersionPage(Answer):
    """Versions, the newest first."""

    value: list[VersionAnswer]
    next: str | None


class EnvironmentPage(Answer):
    """Environments by name."""

    value: list[EnvironmentAnswer]
    next: str | None


class LabelPage(Answer):
    """Labels by name."""

    value: list[LabelAnswer]
    next: str | None


def definition_document(definition: Definition) -> dict[str, Any]:
    """A definition, without the warnings, which are for whoever wrote it."""
    return {
        "name": definition.name,
        "version": definition.version,
        "description": definition.description,
        "tags": dict(definition.tags),
        "details": dict(definition.details),
        "spec": definition.spec.to_dict(),
    }


def version_text(version: EnvironmentVersion) -> bytes:
    """One version."""
    document = {
        "name": version.name,
        "version": version.version,
        "digest": str(version.written.digest),
        "description": version.description,
        "tags": dict(version.tags),
        "details": dict(version.details),
        "archived": version.archived,
        "created_at": version.created_at,
        "modified_at": version.modified_at,
    }
    return encode(document)[:-1] + b',"spec":' + version.written.document.encode() + b"}"


def versions_text(versions: Iterable[EnvironmentVersion], next: str | None) -> bytes:
    """One page of versions."""
    return b'{"value":[' + b",".join(map(version_text, versions)) + b'],"next":' + encode(next) + b"}"


def created_text(version: EnvironmentVersion, new: bool) -> bytes:
    """A version, and whether it is new."""
    return version_text(version)[:-1] + _NEW + encode(new) + b"}"


def version_of_created(text: bytes) -> bytes:
    """The version in what `created_text` gave."""
    return text.rpartition(_NEW)[0] + b"}"


def environment_document(environment: Environment) -> dict[str, Any]:
    """One environment."""
    return {
        "name": environment.name,
        "latest_version": environment.latest_version,
        "next_version": environment.next_version,
        "archived": environment.archived,
        "labels": dict(environment.labels),
        "created_at": environment.created_at,
        "modified_at": environment.modified_at,
    }


def environment_text(environment: Environment) -> bytes:
    """One environment, written."""
    return encode(environment_document(environment))


def label_document(label: LabelName, history: Iterable[LabelChange]) -> dict[str, Any]:
    """A label with its history, the newest first, of which there is at least one."""
    changes = [{"label": each.label, "version": each.version, "at": each.at} for each in history]
    return {"label": label, "version": changes[0]["version"], "history": changes}
