"""
Where an image comes from: an in-toto Statement (v1) with a provenance predicate of SLSA (v1).

The fields are those of https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1; what ours mean, for builds
of the type `BUILD_TYPE`, is in `docs/evidence.md`. Whoever has the same records writes the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.evidence import EvidenceKind, InvalidEvidence, timestamp, without_origins
from mlenv.core.image import MANIFEST_TYPE, Descriptor, encode
from mlenv.core.image_name import full_name, is_file_source
from mlenv.core.layer import PREFIX, RECIPE, Compression
from mlenv.core.lock import Artifact, Lock, LockedContext, LockedPackage
from mlenv.core.records import BuildRecord
from mlenv.core.redact import has_credentials
from mlenv.core.spec import Spec

if TYPE_CHECKING:
    from mlenv.core.conda_package import CondaPackage

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
#: How images of locks are made: layers of wheels on a base, and nothing is run. The version changes with the meaning
#: of the parameters.
BUILD_TYPE: Final = "https://mlenv.dev/build-types/layers/v1"
#: How images of Dockerfile contexts are made: by the container engine of the machine, which runs what they say.
CONTEXT_BUILD_TYPE: Final = "https://mlenv.dev/build-types/dockerfile/v1"
#: Who made it: the store of one user, or a server's worker. They are trusted differently, so they have two names.
EMBEDDED_BUILDER: Final = "https://mlenv.dev/builders/embedded/v1"
SERVER_BUILDER: Final = "https://mlenv.dev/builders/server/v1"


class BuildFacts(Struct, frozen=True):
    """
    What is known of how an image came to be.

    Attributes:
        spec: What was asked for.
        lock: What that was resolved to.
        base: The base image's manifest; None where it is not known.
        compression: Of the layers that were added; None if there are none.
        builder: mlenv's version.
        record: The build, if one was recorded: its id, its times and its log.
    """

    spec: Spec
    lock: Lock
    base: Digest | None
    compression: Compression | None
    builder: str
    record: BuildRecord | None = None


def provenance(images: Sequence[Descriptor], facts: BuildFacts) -> bytes:
    """
    The statement, as canonical JSON.

    Args:
        images: The manifests that the build made.

    Raises:
        InvalidEvidence: It would hold a credential. Specs and locks are checked for these when they come in.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"digest": _digest(each.digest), "mediaType": each.media_type} for each in images],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"buildDefinition": _definition(facts), "runDetails": _details(facts)},
    }
    if any(has_credentials(text) for text in _texts(statement)):
        raise InvalidEvidence("provenance", "would hold a credential, and is not written")
    return encode(statement) + b"\n"


def _definition(facts: BuildFacts) -> dict[str, Any]:
    lock = facts.lock
    external: dict[str, Any] = {
        "spec": without_origins(facts.spec).to_dict(),
        "platform": str(lock.target.platform),
    }
    if (context := lock.context) is not None:
        return {
            "buildType": CONTEXT_BUILD_TYPE,
            "externalParameters": external
            | _present({"dockerfile": context.dockerfile, "arguments": dict(context.arguments) or None}),
            "internalParameters": {"resolver": lock.resolver},
            "resolvedDependencies": [_lock(lock), *_context(context, lock.target.platform.architecture)],
        }
    external |= {
        "compression": facts.compression.value if facts.compression else None,
        "lockOptions": _present(
            {
                "asOf": lock.as_of,
                "bytecode": lock.bytecode is not None,
                "fromSource": [each.name for each in lock.packages if each.built_from is not None],
            }
        ),
    }
    internal: dict[str, Any] = {
        "recipe": str(RECIPE),
        "prefix": PREFIX,
        "python": lock.target.python or None,
        "bytecodePython": lock.bytecode,
        "glibc": str(lock.target.glibc) if lock.target.glibc else None,
        "resolver": lock.resolver,
    }
    if lock.conda:
        from mlenv.core.conda_layer import CONDA_RECIPE
        from mlenv.core.conda_package import channels_of

        internal |= {"condaRecipe": str(CONDA_RECIPE), "channels": list(channels_of(lock.conda))}
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": _present(external),
        "internalParameters": _present(internal),
        "resolvedDependencies": [*_base(facts), _lock(lock), *_packages(lock)],
    }


def _details(facts: BuildFacts) -> dict[str, Any]:
    record = facts.record
    on_server = record is not None and record.queued_at is not None
    details: dict[str, Any] = {
        "builder": {"id": SERVER_BUILDER if on_server else EMBEDDED_BUILDER, "version": {"mlenv": facts.builder}}
    }
    if record is not None:
        details["metadata"] = _present(
            {
                "invocationId": record.id,
                "startedOn": timestamp(record.started_at),
                "finishedOn": timestamp(record.ended_at) if record.ended_at else None,
            }
        )
        if record.log is not None:
            log = EvidenceKind.LOG
            details["byproducts"] = [{"name": log.filename, "digest": _digest(record.log), "mediaType": log.media_type}]
    return details


def _base(facts: BuildFacts) -> Iterator[dict[str, Any]]:
    if facts.base is None:
        return
    described: dict[str, Any] = {"name": "base", "digest": _digest(facts.base), "mediaType": MANIFEST_TYPE}
    if facts.spec.image is not None and not is_file_source(facts.spec.image):
        described["uri"] = image_url(facts.spec.image, facts.base, facts.lock.target.platform.architecture)
    yield described


def _context(context: LockedContext, architecture: str) -> Iterator[dict[str, Any]]:
    """The context's archive, and the images that its Dockerfile begins with."""
    yield {"name": "context", "digest": _digest(context.digest), "mediaType": "application/x-tar"}
    for each in context.bases:
        for_other = each.platform.architecture if each.platform else architecture
        yield {
            "name": each.name,
            "uri": image_url(each.name, each.digest, for_other),
            "digest": _digest(each.digest),
            "mediaType": MANIFEST_TYPE,
        }


def _lock(lock: Lock) -> dict[str, Any]:
    kind = EvidenceKind.LOCK
    return {"name": kind.filename, "digest": _digest(lock.digest), "mediaType": kind.media_type}


def _packages(lock: Lock) -> Iterator[dict[str, Any]]:
    """Every file that was installed, conda's first; each with the source it was built from here, if it was."""
    for conda in lock.conda:
        yield _file(conda, conda.artifact, {"dev.mlenv.purl": conda_url(conda)})
    for each in lock.packages:
        source = each.built_from
        notes = {"dev.mlenv.builtFrom": str(source.digest)} if source is not None else {}
        yield _file(each, each.artifact, notes)
        if source is not None:
            yield _file(each, source, {})


def _file(package: "LockedPackage | CondaPackage", artifact: Artifact, notes: Mapping[str, str]) -> dict[str, Any]:
    """One file. One that has no address is known by its package's name alone."""
    if artifact.url is not None:
        uri = _normal(artifact.url)
    else:
        uri = f"pkg:pypi/{quote(package.name)}@{quote(package.version)}?file_name={quote(artifact.filename)}"
    described: dict[str, Any] = {"name": artifact.filename, "uri": uri, "digest": _digest(artifact.digest)}
    if notes:
        described["annotations"] = dict(notes)
    return described


def image_url(name: str, digest: Digest, architecture: str) -> str:
    """An image as a package URL (purl-spec, type `oci`): the repository and tag are where it was found."""
    named, _, _ = full_name(name).partition("@")
    repository, colon, tag = named.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = named, ""
    last = repository.rpartition("/")[2].lower()
    qualifiers = {"arch": architecture, "repository_url": repository, "tag": tag}
    query = "&".join(f"{key}={quote(value, safe='/:')}" for key, value in qualifiers.items() if value)
    return f"pkg:oci/{quote(last)}@{quote(str(digest), safe='')}?{query}"


def conda_url(package: "CondaPackage") -> str:
    """A conda package as a package URL (purl-spec, type `conda`), by which lists of vulnerabilities know it."""
    qualifiers = {
        "build": package.build,
        "channel": package.channel.rpartition("/")[2],
        "subdir": package.subdir,
        "type": package.artifact.filename.removeprefix(f"{package.stem}."),
    }
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in qualifiers.items())
    return f"pkg:conda/{quote(package.name, safe='')}@{quote(package.version, safe='')}?{query}"


def _normal(url: str) -> str:
    """An address with scheme and host in lower case (in-toto, field types, ResourceURI)."""
    parts = urlsplit(url)
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl()


def _digest(digest: Digest) -> dict[str, str]:
    return {digest.algorithm: digest.hex}


def _present(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not there: unset and null mean the same in in-toto."""
    return {key: value for key, value in document.items() if value is not None and value != []}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
