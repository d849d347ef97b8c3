"""Builds, uses, base images and lock options as JSON; see `mlenv.api.wire`."""

from datetime import UTC
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, Field, JsonValue

from mlenv.api.wire import NAME_LIMIT, Answer, NameText, Wire
from mlenv.api.wire_spec import PlatformBody
from mlenv.core.digest import Digest
from mlenv.core.facts import BaseFacts, Interpreter
from mlenv.core.layer import Compression
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Glibc, Platform
from mlenv.core.records import BuildRecord, BuildStatus, TimedStep, UseRecord
from mlenv.core.redact import redact
from mlenv.core.reference import EnvironmentName, VersionName, parse_name, parse_version

DigestText = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
IdText = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
#: The longest name of an image, in characters.
_IMAGE: Final = 512
ShortText = Annotated[str, Field(max_length=NAME_LIMIT)]


class StepAnswer(Answer):
    """One finished step of a build; how long it took, in seconds."""

    title: str
    seconds: float
    note: str


class BuildAnswer(Answer):
    """One attempt to turn a lock into an image."""

    id: str
    name: str
    version: str
    platform: PlatformBody
    status: BuildStatus = Field(strict=False)
    queued_at: AwareDatetime | None
    started_at: AwareDatetime
    ended_at: AwareDatetime | None
    image: DigestText | None
    error: str | None
    steps: list[StepAnswer]
    compression: Compression | None = Field(strict=False)
    options: dict[str, JsonValue] | None
    priority: int | None
    requested_by: str | None
    attempts: int
    log: DigestText | None

    def to_core(self) -> BuildRecord:
        """The build."""
        return BuildRecord(
            id=self.id,
            name=EnvironmentName(self.name),
            version=VersionName(self.version),
            platform=Platform(self.platform.os, self.platform.architecture),
            status=self.status,
            started_at=self.started_at,
            ended_at=self.ended_at,
            image=_digest(self.image),
            error=self.error,
            steps=tuple(TimedStep(each.title, each.seconds, each.note) for each in self.steps),
            queued_at=self.queued_at,
            compression=self.compression,
            options=self.options,
            priority=self.priority,
            requested_by=self.requested_by,
            attempts=self.attempts,
            log=_digest(self.log),
        )


class BuildPage(Answer):
    """Builds, the newest first."""

    value: list[BuildAnswer]
    next: str | None


def build_document(build: BuildRecord) -> dict[str, Any]:
    """One build."""
    return {
        "id": build.id,
        "name": build.name,
        "version": build.version,
        "platform": platform_document(build.platform),
        "status": build.status.value,
        "queued_at": build.queued_at,
        "started_at": build.started_at,
        "ended_at": build.ended_at,
        "image": _text(build.image),
        "error": build.error,
        "steps": [{"title": each.title, "seconds": each.seconds, "note": each.note} for each in build.steps],
        "compression": _text(build.compression),
        "options": None if build.options is None else dict(build.options),
        "priority": build.priority,
        "requested_by": build.requested_by,
        "attempts": build.attempts,
        "log": _text(build.log),
    }


class UseBody(Wire):
    """
    A use of a version, as whoever used it tells it. Told again with the same id, it replaces what was told before: so
    its end is added.
    """

    id: IdText
    version: NameText
    kind: ShortText
    engine: ShortText
    lock: DigestText
    image: DigestText | None = None
    command: Annotated[list[Annotated[str, Field(max_length=65_536)]], Field(max_length=1000)]
    user: ShortText
    host: ShortText
    exit_code: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = None
    started_at: AwareDatetime
    ended_at: AwareDatetime | None = None

    def to_core(self, name: str) -> UseRecord:
        """The use of a version of that environment. Credentials in addresses are taken out here, too."""
        return _use(self, parse_name(name), parse_version(self.version))


class UseAnswer(Answer):
    """A use of a version: the lineage."""

    id: str
    name: str
    version: str
    kind: str
    engine: str
    lock: DigestText
    image: DigestText | None
    command: list[str]
    user: str
    host: str
    exit_code: int | None
    started_at: AwareDatetime
    ended_at: AwareDatetime | None

    def to_core(self) -> UseRecord:
        """The use."""
        return _use(self, EnvironmentName(self.name), VersionName(self.version))


class UsePage(Answer):
    """Uses, the newest first."""

    value: list[UseAnswer]
    next: str | None


def use_document(use: UseRecord) -> dict[str, Any]:
    """One use. Without its `name`, it is a `UseBody`."""
    return {
        "id": use.id,
        "name": use.name,
        "version": use.version,
        "kind": use.kind,
        "engine": use.engine,
        "lock": str(use.lock),
        "image": _text(use.image),
        "command": list(use.command),
        "user": use.user,
        "host": use.host,
        "exit_code": use.exit_code,
        "started_at": use.started_at,
        "ended_at": use.ended_at,
    }


def use_body(use: UseRecord) -> dict[str, Any]:
    """A use, as a client tells it."""
    document = use_document(use)
    del document["name"]
    return document


def _use(told: UseBody | UseAnswer, name: EnvironmentName, version: VersionName) -> UseRecord:
    return UseRecord(
        id=told.id,
        name=name,
        version=version,
        kind=told.kind,
        engine=told.engine,
        lock=Digest.parse(told.lock),
        image=_digest(told.image),
        command=tuple(redact(each) for each in told.command),
        user=told.user,
        host=told.host,
        exit_code=told.exit_code,
        started_at=told.started_at.astimezone(UTC),
        ended_at=told.ended_at.astimezone(UTC) if told.ended_at else None,
    )


class InterpreterAnswer(Answer):
    """A Python in an image."""

    path: str
    version: str
    prefix: str
    conda: bool


class FactsAnswer(Answer):
    """What a base image offers, read from its layers. `size` is compressed bytes."""

    digest: DigestText
    platform: PlatformBody
    os_id: str | None
    os_version: str | None
    os_name: str | None
    glibc: str | None
    pythons: list[InterpreterAnswer]
    cuda: str | None
    cudnn: str | None
    conda_prefixes: list[str]
    layers: int
    size: int
    packages: int | None

    def to_core(self) -> BaseFacts:
        """The facts."""
        return BaseFacts(
            digest=Digest.parse(self.digest),
            platform=Platform(self.platform.os, self.platform.architecture),
            os_id=self.os_id,
            os_version=self.os_version,
            os_name=self.os_name,
            glibc=None if self.glibc is None else Glibc.parse(self.glibc),
            pythons=tuple(Interpreter(each.path, each.version, each.prefix, each.conda) for each in self.pythons),
            cuda=self.cuda,
            cudnn=self.cudnn,
            conda_prefixes=tuple(self.conda_prefixes),
            layers=self.layers,
            size=self.size,
            packages=self.packages,
        )


class BaseAnswer(Answer):
    """A base image's name, the manifest it points at, and what was read from that."""

    name: str
    manifest: DigestText
    facts: FactsAnswer | None


class BasePage(Answer):
    """Base images by name."""

    value: list[BaseAnswer]
    next: str | None


class BaseBody(Wire):
    """Which base image a server is to take from its registry, and what specs call it."""

    image: Annotated[str, Field(min_length=1, max_length=_IMAGE, description="As docker reads names of images.")]
    name: Annotated[str, Field(min_length=1, max_length=_IMAGE)] | None = Field(
        None, description="Left out, it is called by `image`."
    )
    platform: PlatformBody | None = Field(
        None, description="Which one, of an image for several. Left out, it is that of the server."
    )


def facts_document(facts: BaseFacts) -> dict[str, Any]:
    """Facts of a base image."""
    return {
        "digest": str(facts.digest),
        "platform": platform_document(facts.platform),
        "os_id": facts.os_id,
        "os_version": facts.os_version,
        "os_name": facts.os_name,
        "glibc": _text(facts.glibc),
        "pythons": [
            {"path": each.path, "version": each.version, "prefix": each.prefix, "conda": each.conda}
            for each in facts.pythons
        ],
        "cuda": facts.cuda,
        "cudnn": facts.cudnn,
        "conda_prefixes": list(facts.conda_prefixes),
        "layers": facts.layers,
        "size": facts.size,
        "packages": facts.packages,
    }


class LockOptionsBody(Wire):
    """How a lock is to be made on the server. `as_of`: the index is taken as it stood then."""

    allow_source: Annotated[list[ShortText], Field(max_length=1000)] = Field(default=[])
    allow_source_auto: bool = False
    as_of: AwareDatetime | None = None
    bytecode: bool = True
    arguments: Annotated[dict[ShortText, Annotated[str, Field(max_length=32_768)]], Field(max_length=1000)] | None = (
        None
    )

    def to_core(self) -> LockOptions:
        """The options."""
        arguments = tuple(sorted(self.arguments.items())) if self.arguments is not None else None
        as_of = self.as_of.astimezone(UTC) if self.as_of else None
        return LockOptions(tuple(self.allow_source), self.allow_source_auto, as_of, self.bytecode, arguments)


def lock_options_document(options: LockOptions) -> dict[str, Any]:
    """Lock options."""
    return {
        "allow_source": list(options.allow_source),
        "allow_source_auto": options.allow_source_auto,
        "as_of": options.as_of,
        "bytecode": options.bytecode,
        **({"arguments": dict(options.arguments)} if options.arguments is not None else {}),
    }


def platform_document(platform: Platform) -> dict[str, str]:
    """A platform."""
    return {"os": platform.os, "architecture": platform.architecture}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _digest(text: str | None) -> Digest | None:
    return None if text is None else Digest.parse(text)
