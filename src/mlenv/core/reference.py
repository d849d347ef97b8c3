"""How people and machines name an environment, a version or a label, in every spelling that Azure knows."""

import re
from typing import Final, NewType, Self

from msgspec import Struct
from msgspec.structs import replace

from mlenv.errors import InvalidInput

EnvironmentName = NewType("EnvironmentName", str)
VersionName = NewType("VersionName", str)
LabelName = NewType("LabelName", str)

#: The label that is computed: the version created last.
LATEST: Final = LabelName("latest")

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f/\\:@#?%&\"'<>|*]")
_LIMIT: Final = 255
_PROVIDER: Final = "Microsoft.MachineLearningServices"
_WORKSPACE_ID = re.compile(
    r"/?subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)/providers/"
    + re.escape(_PROVIDER)
    + r"/workspaces/(?P<workspace>[^/]+)/environments/(?P<name>[^/]+)(?:/(?P<kind>versions|labels)/(?P<value>[^/]+))?"
)
_REGISTRY_ID = re.compile(
    r"//registries/(?P<registry>[^/]+)/environments/(?P<name>[^/]+)(?:/(?P<kind>versions|labels)/(?P<value>[^/]+))?"
)
_SHORT = re.compile(r"(?P<name>[^:@]*)(?:(?P<mark>[:@])(?P<value>.*))?", re.DOTALL)


class InvalidName(InvalidInput):
    """A name, version or label with characters or a length that it can't have."""

    hint = "use 1 to 255 characters: letters, digits and `-`, `_`, `.` are always right; no spaces, no `/ : @ # ? %`"

    def __init__(self, what: str, text: str) -> None:
        super().__init__(f"not {what}: {text!r}")
        self.what, self.text = what, text


class InvalidReference(InvalidInput):
    """Text that should refer to an environment, and does not."""

    hint = (
        "write NAME, NAME:VERSION, NAME@LABEL, azureml:NAME:VERSION, "
        "azureml://registries/R/environments/N/versions/V, or a full ARM id"
    )

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"not an environment reference: {text!r}: {why}")
        self.text = text


def check_name(what: str, text: str) -> str:
    """Check what may stand in addresses and references as a name; `what` says of what kind. Raises `InvalidName`."""
    if not text or len(text) > _LIMIT or _FORBIDDEN.search(text) or not text.isprintable() or text in {".", ".."}:
        raise InvalidName(what, text)
    return text


def parse_name(text: str) -> EnvironmentName:
    """Check an environment's name. Raises `InvalidName`."""
    return EnvironmentName(check_name("an environment name", text))


def parse_version(text: str) -> VersionName:
    """Check a version. Raises `InvalidName`."""
    return VersionName(check_name("a version", text))


def parse_label(text: str) -> LabelName:
    """Check a label. Raises `InvalidName`."""
    return LabelName(check_name("a label", text))


class Workspace(Struct, frozen=True):
    """A workspace as Azure addresses it."""

    subscription: str
    group: str
    name: str

    def __str__(self) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/{_PROVIDER}/workspaces/{self.name}"


class Reference(Struct, frozen=True):
    """
    A reference to an environment, or to one version of it.

    Attributes:
        name: The environment's name.
        version: The version, if it is named.
        label: The label, if one is named; never together with `version`.
        registry: The registry's name for an `azureml://registries/…` reference.
        workspace: The address in a full ARM id. Never together with `registry`.
    """

    name: EnvironmentName
    version: VersionName | None = None
    label: LabelName | None = None
    registry: str | None = None
    workspace: Workspace | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a reference in any spelling.

        Raises:
            InvalidReference: The text has none of the known forms.
            InvalidName: A part of it is not a name, version or label.
        """
        body = text.removeprefix("azureml:")
        if match := _REGISTRY_ID.fullmatch(body):
            return cls._from_match(match, registry=match["registry"])
        if match := _WORKSPACE_ID.fullmatch(body):
            workspace = Workspace(match["subscription"], match["group"], match["workspace"])
            return cls._from_match(match, workspace=workspace)
        if "/" in body:
            raise InvalidReference(text, "it has a `/`, but is neither a registry reference nor an ARM id")
        match = _SHORT.fullmatch(body)
        if match is None or not match["name"]:
            raise InvalidReference(text, "the name is missing")
        if match["mark"] and not match["value"]:
            raise InvalidReference(text, f"nothing follows the `{match['mark']}`")
        name = parse_name(match["name"])
        if match["mark"] == ":":
            return cls(name, version=parse_version(match["value"]))
        if match["mark"] == "@":
            return cls(name, label=parse_label(match["value"]))
        return cls(name)

    @classmethod
    def _from_match(
        cls, match: re.Match[str], *, registry: str | None = None, workspace: Workspace | None = None
    ) -> Self:
        version = parse_version(match["value"]) if match["kind"] == "versions" else None
        label = parse_label(match["value"]) if match["kind"] == "labels" else None
        return cls(parse_name(match["name"]), version, label, registry, workspace)

    def at(self, version: VersionName) -> Self:
        """The same environment at one version."""
        return replace(self, version=version, label=None)

    def __str__(self) -> str:
        if self.registry is None and self.workspace is None:
            if self.version is not None:
                return f"{self.name}:{self.version}"
            return self.name if self.label is None else f"{self.name}@{self.label}"
        scope = f"azureml://registries/{self.registry}" if self.registry is not None else str(self.workspace)
        if self.version is not None:
            return f"{scope}/environments/{self.name}/versions/{self.version}"
        if self.label is not None:
            return f"{scope}/environments/{self.name}/labels/{self.label}"
        return f"{scope}/environments/{self.name}"
