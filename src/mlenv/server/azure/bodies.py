"""What clients send about environments. Unknown properties are ignored, as everywhere in the dialect."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Texts = dict[str, str | None]


class Body(BaseModel):
    """A JSON object with names in camel case; a number is no text, and a text is no number."""

    model_config = ConfigDict(
        strict=True, extra="ignore", alias_generator=to_camel, populate_by_name=True, hide_input_in_errors=True
    )


class BuildBody(Body):
    """Where the context of a Dockerfile is."""

    context_uri: str = Field(min_length=1)
    dockerfile_path: str | None = None


class RouteBody(Body):
    """Where an inference server answers."""

    port: Annotated[int, Field(ge=1, le=65535)]
    path: str


class InferenceBody(Body):
    """The routes of an inference server."""

    liveness_route: RouteBody
    readiness_route: RouteBody
    scoring_route: RouteBody


class VersionProperties(Body):
    """The properties of an environment's version."""

    image: str | None = None
    conda_file: str | None = None
    build: BuildBody | None = None
    os_type: str | None = None
    inference_config: InferenceBody | None = None
    description: str | None = None
    tags: Texts | None = None
    properties: Texts | None = None
    is_anonymous: bool | None = None
    is_archived: bool | None = None
    stage: str | None = None
    auto_rebuild: str | None = None
    intellectual_property: dict[str, Any] | None = None


class VersionBody(Body):
    """An environment's version."""

    properties: VersionProperties


class ContainerProperties(Body):
    """The properties of an environment as a whole."""

    is_archived: bool | None = None


class ContainerBody(Body):
    """An environment as a whole."""

    properties: ContainerProperties


class PublishBody(Body):
    """Where a version is to be shared to."""

    registry_name: str
    destination_name: str | None = None
    destination_version: str | None = None


class ImportProperties(Body):
    """What is to be shared into a registry, and under which name."""

    reference_type: str = "Id"
    source_asset_id: str
    destination_name: str | None = None
    destination_version: str | None = None


class ImportBody(Body):
    """A request to share into a registry."""

    properties: ImportProperties


class TemporaryDataBody(Body):
    """A request for a place to upload to."""

    asset_id: str | None = None
    temporary_data_reference_type: str | None = None
