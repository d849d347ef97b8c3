"""`mlenv environment evidence`: what is known of an image, from this store or from a registry alone."""

import argparse
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from mlenv.cli.arguments import add_reference, to_optional_reference
from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.locking import add_platform, to_platform
from mlenv.cli.printer import Column, Output
from mlenv.cli.registries import Trust, add_trust, to_trust
from mlenv.core.evidence import EvidenceKind, parse_artifact
from mlenv.core.image_name import tag_of
from mlenv.core.layer import Compression
from mlenv.core.platform import Platform
from mlenv.core.reference import Reference
from mlenv.errors import InvalidInput, NotFound
from mlenv.service.reading_evidence import (
    Found,
    NoEvidence,
    Subject,
    evidence_about,
    fetch,
    list_evidence,
    missing_evidence,
    subjects_of,
)

if TYPE_CHECKING:
    from mlenv.distribution.client import Repository
    from mlenv.distribution.names import RemoteName
    from mlenv.service.evidence import Attachment

_COLUMNS: Final = (
    Column("Type", "type"),
    Column("Platform", "platform"),
    Column("Artifact type", "artifact_type"),
    Column("Size", "size"),
    Column("Created", "created"),
    Column("Digest", "digest"),
)

#: Gives a document in pieces.
_Fetch = Callable[[Found], Iterable[bytes]]


class EvidenceSettings(Struct, frozen=True):
    """What to list, from where, and which of it to write to which file or directory."""

    reference: Reference | None
    source: "RemoteName | None"
    platform: Platform | None
    kind: EvidenceKind | None
    file: Path | None
    directory: Path | None
    trust: Trust


class NotBuilt(NotFound):
    """The version has no image here that anything could be known of."""

    def __init__(self, name: str, platform: Platform) -> None:
        super().__init__(f"{name} was not built for {platform} here")
        self.hint = f"build it with `mlenv environment build {name}`, or name a registry that has it with --from"


class SeveralDocuments(InvalidInput):
    """One file can't hold several documents."""

    def __init__(self, found: Sequence[Found]) -> None:
        super().__init__(
            f"there are {len(found)} documents of that kind: {', '.join(_told(each) for each in found[:5])}"
        )
        self.hint = "write all of them with --directory, or choose one with --platform"


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    parser.add_argument(
        "--from",
        dest="source",
        metavar="REGISTRY/REPOSITORY[:TAG|@DIGEST]",
        help="ask this registry, and nothing else (default: the store; for TAG: the version)",
    )
    add_platform(parser, "of which image (default: all)")
    parser.add_argument("--type", choices=[each.value for each in EvidenceKind], help="only this")
    parser.add_argument("--output-file", type=Path, metavar="FILE", help="write the document here; `-` for stdout")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="write all documents into this directory")
    add_trust(parser)


def _settings(namespace: argparse.Namespace) -> EvidenceSettings:
    from mlenv.distribution.names import RemoteName

    reference = to_optional_reference(namespace)
    if reference is None and namespace.source is None:
        raise UsageError("evidence of which environment?", "write NAME:VERSION, or name an image with --from")
    kind = EvidenceKind(namespace.type) if namespace.type else None
    if namespace.output_file and namespace.directory:
        raise UsageError("--output-file and --directory contradict each other", "give one of them")
    if namespace.output_file and kind is None:
        raise UsageError("which document is to be written?", f"choose with --type: {', '.join(EvidenceKind)}")
    source = RemoteName.parse(namespace.source) if namespace.source else None
    if source is not None and reference is not None and source.tag is None and source.digest is None:
        source = source.with_tag(_tag(reference))
    return EvidenceSettings(
        reference,
        source,
        to_platform(namespace),
        kind,
        namespace.output_file,
        namespace.directory,
        to_trust(namespace),
    )


def _tag(reference: Reference) -> str:
    """What a version or label is called in a registry."""
    version = reference.version or reference.label
    return tag_of(version) if version else "latest"


def _run(settings: EvidenceSettings, context: Context) -> int:
    with _opened(settings, context) as (found, get):
        if settings.file is None and settings.directory is None:
            context.printer.data([_document(each) for each in found], _COLUMNS)
            if not found:
                context.printer.say("nothing is attached to the image")
            return ExitStatus.DONE
        own = [each for each in found if each.artifact.kind is not None]
        if not own:
            raise NoEvidence(f"the image has no {settings.kind or 'evidence of mlenv'} attached to it")
        if settings.file is not None:
            _write_one(own, settings.file, get, context)
        elif settings.directory is not None:
            _write_all(own, settings.directory, get, context)
    return ExitStatus.DONE


@contextmanager
def _opened(settings: EvidenceSettings, context: Context) -> Iterator[tuple[list[Found], _Fetch]]:
    """What there is, and how to get a document."""
    if settings.source is None and context.connection is None:
        yield _here(settings, context)
        return
    repository, reference = _repository(settings, context)
    with repository:
        if settings.source is not None:
            found = list_evidence(repository, reference, platform=settings.platform, kind=settings.kind)
        else:
            subjects = list(subjects_of(repository, reference, settings.platform))
            found = evidence_about(repository, subjects, settings.kind)
            _tell_missing(subjects, found, settings, context)
        yield found, lambda each: fetch(repository, each)


def _tell_missing(
    subjects: Sequence[Subject], found: Sequence[Found], settings: EvidenceSettings, context: Context
) -> None:
    """Say what a server's own image should have attached, and has not."""
    told = False
    for image, kinds in missing_evidence(subjects, found).items():
        lacks = [each.value for each in kinds if settings.kind in (None, each)]
        if lacks:
            context.printer.say(f"not attached to {image}: {', '.join(lacks)}")
            told = True
    if told:
        context.printer.say(f"hint: `mlenv environment build {settings.reference}` attaches what is missing")


def _repository(settings: EvidenceSettings, context: Context) -> "tuple[Repository, str]":
    """The repository that is asked, to be closed, and for what: the one that is named, or else the server's own."""
    if settings.source is not None:
        source = settings.source
        opened = context.embedded.machine.reach_registries(settings.trust.insecure, settings.trust.authority)
        return opened.open(source, progress=context.progress), source.reference
    assert settings.reference is not None
    return context.remote.repository(settings.reference.name), _tag(settings.reference)


def _here(settings: EvidenceSettings, context: Context) -> tuple[list[Found], _Fetch]:
    """What this store knows: what a push would attach."""
    store = context.embedded
    assert settings.reference is not None
    version = store.environments.version(settings.reference)
    found: list[Found] = []
    documents: dict[Any, Attachment] = {}
    for platform in (settings.platform,) if settings.platform else store.platforms_of(version):
        images = [store.building.find(version, platform, each) for each in (Compression.GZIP, Compression.ZSTD)]
        image = next((each for each in images if each is not None), None)
        if image is None:
            raise NotBuilt(str(version), platform)
        for each in store.evidence.of(version, platform, image):
            if settings.kind in (None, each.kind):
                described = {"os": platform.os, "architecture": platform.architecture}
                subject = Subject(replace(image.manifest, platform=described))
                found.append(Found(subject, each.descriptor, parse_artifact(each.manifest, str(each.kind))))
                documents[each.descriptor.digest] = each

    def get(each: Found) -> Iterator[bytes]:
        data = documents[each.manifest.digest].data
        yield data if isinstance(data, bytes) else data.read_bytes()

    return found, get


def _write_one(found: Sequence[Found], file: Path, get: _Fetch, context: Context) -> None:
    if len(found) > 1:
        raise SeveralDocuments(found)
    _write(found[0], file, get, context)


def _write_all(found: Sequence[Found], directory: Path, get: _Fetch, context: Context) -> None:
    """Each under the name of its kind; with the platform before it where there are several."""
    if len({each.subject.manifest.digest for each in found}) > 1:
        names = ", ".join(sorted({each.subject.platform or str(each.subject.manifest.digest) for each in found}))
        raise UsageError(f"the documents of which image? There are {names}", "choose one with --platform")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"can't write into {directory}: {error.strerror}") from error
    counts: dict[EvidenceKind, int] = {}
    for each in found:
        kind = each.artifact.kind
        assert kind is not None
        counts[kind] = counts.get(kind, 0) + 1
        stem, dot, suffix = kind.filename.rpartition(".")
        name = kind.filename if counts[kind] == 1 else f"{stem}-{counts[kind]}{dot}{suffix}"
        _write(each, directory / name, get, context)


def _write(found: Found, file: Path, get: _Fetch, context: Context) -> None:
    """Write a document, once all of it is there and right."""
    to_stdout = str(file) == "-"
    directory = Path(tempfile.gettempdir()) if to_stdout else file.parent
    path = directory / f".mlenv-{secrets.token_hex(8)}"
    try:
        with path.open("xb") as output:
            for chunk in get(found):
                output.write(chunk)
        if to_stdout:
            with path.open(encoding="utf-8", errors="replace", newline="") as document:
                while text := document.read(1 << 20):
                    context.printer.text(text)
        else:
            os.replace(path, file)
            context.printer.say(f"wrote {file}")
    except OSError as error:
        raise InvalidInput(f"can't write {file}: {error.strerror or error}") from error
    finally:
        path.unlink(missing_ok=True)


def _document(found: Found) -> dict[str, Any]:
    kind, artifact = found.artifact.kind, found.artifact
    return {
        "type": kind.value if kind else None,
        "artifact_type": artifact.type or None,
        "predicate_type": artifact.predicate or None,
        "digest": str(found.manifest.digest),
        "size": sum(each.size for each in artifact.layers),
        "created": found.created or None,
        "image": str(found.subject.manifest.digest),
        "platform": found.subject.platform,
    }


def _told(found: Found) -> str:
    return f"{found.manifest.digest}{f' of {found.created}' if found.created else ''}"


evidence: Final = Verb(_arguments, _settings, _run, Output.TABLE)
