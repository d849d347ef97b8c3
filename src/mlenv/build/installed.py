"""Which Python packages an image has, read from its layers and never run: `dist-info` and `egg-info` of its file system."""

import hashlib
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Final

from packaging.utils import canonicalize_name

from mlenv.build.facts_python import PYTHON_INTERESTS, conda_prefixes, find_pythons
from mlenv.build.facts_system import SYSTEM_INTERESTS
from mlenv.build.facts_tree import Interest, Tree, list_layer
from mlenv.build.interface import Blobs
from mlenv.build.validate import environment_of, parse_json
from mlenv.core.digest import Digest
from mlenv.core.image import Image
from mlenv.core.installed import ANNOTATION, Installed, InstalledPackage
from mlenv.core.progress import Progress, Silent

_METADATA: Final = re.compile(r"(?:.*/)?[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_RECORD: Final = re.compile(r"(?:.*/)?[^/]+\.dist-info/RECORD")
_FIELD: Final = re.compile(rb"^(Name|Version):[ \t]*([^\r\n]{1,200}?)[ \t]*\r?$", re.MULTILINE | re.IGNORECASE)
_SIZE: Final = re.compile(rb",(\d{1,15})\r?$", re.MULTILINE)
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNPACKED: Final = 128 << 30
_MEMBERS: Final = 3_000_000
#: Most packages that are kept, and the most characters of the annotation: a manifest may have 4 MiB.
_PACKAGES: Final = 5_000
_ANNOTATION_LIMIT: Final = 1 << 20


def _from_metadata(data: bytes) -> bytes | None:
    """`name version`, of the headers (core metadata; RFC 822)."""
    head = re.split(rb"\r?\n\r?\n", data, maxsplit=1)[0]
    fields = {match[1].lower(): match[2] for match in reversed(list(_FIELD.finditer(head)))}
    if b"name" not in fields or b"version" not in fields or b" " in fields[b"name"]:
        return None
    return fields[b"name"] + b" " + fields[b"version"]


def _from_record(data: bytes) -> bytes:
    """The digest of the text and the sum of the sizes in it."""
    return b"%s %d" % (
        hashlib.sha256(data).hexdigest().encode(),
        sum(int(match[1]) for match in _SIZE.finditer(data)),
    )


_INTERESTS: Final = (
    *SYSTEM_INTERESTS,
    *PYTHON_INTERESTS,
    Interest(_METADATA, 256 << 10, _from_metadata),
    Interest(_RECORD, 32 << 20, _from_record),
)


def read_installed(image: Image, blobs: Blobs, *, progress: Progress | None = None) -> Installed:
    """
    Read an image, whose blobs are stored.

    Raises:
        NotFound: A layer is not there.
        InvalidArchive: A layer is damaged, or exceeds a limit.
    """
    tree = Tree()
    with (progress or Silent()).step("Reading which packages are installed"):
        for layer, _ in image.layers:
            what = f"layer {layer.digest}"
            tree.apply(list_layer(blobs.path(layer.digest), _INTERESTS, what=what, limit=_UNPACKED, members=_MEMBERS))
    variables = environment_of(image.config)
    pythons = find_pythons(tree, variables, conda_prefixes(tree))
    found: dict[str, InstalledPackage] = {}
    minor = pythons[0].minor if pythons else ""
    for directory in _import_paths(tree, variables, minor):
        for package in _packages(tree, directory):
            if len(found) < _PACKAGES:
                found.setdefault(package.name, package)
    installed = Installed(pythons[0].version if pythons else None, tuple(found[name] for name in sorted(found)))
    if len(installed.to_json()) > _ANNOTATION_LIMIT:
        return Installed(installed.python, ())
    return installed


def installed_of(manifest: Digest, blobs: Blobs) -> Installed | None:
    """What was read from an image when it was built; None if nothing was. Raises `NotFound`, `InvalidInput`."""
    annotations = parse_json(blobs.read(manifest), f"manifest {manifest}").get("annotations")
    text = annotations.get(ANNOTATION) if isinstance(annotations, dict) else None
    return Installed.from_json(text) if isinstance(text, str) else None


def _import_paths(tree: Tree, variables: Mapping[str, str], minor: str) -> Iterator[str]:
    """Where the Python on `PATH` imports from, in its order (Python, module `site`): a venv's, conda's, or the system's."""
    prefix = _active_prefix(tree, variables.get("PATH") or _PATH)
    if prefix is None:
        return
    given = [each for each in variables.get("PYTHONPATH", "").split(":") if each.startswith("/")]
    yield from given
    prefixes = [prefix]
    if prefix == "/usr":
        # Debian's: what an administrator installs comes before what the distribution has.
        prefixes = ["/usr/local", "/usr"]
    seen = set()
    for each in prefixes:
        for library in ("lib", "lib64"):
            for version in (f"python{minor}", "python3"):
                for kind in ("site-packages", "dist-packages"):
                    path = tree.real_path(f"{each}/{library}/{version}/{kind}")
                    if path is not None and path not in seen:
                        seen.add(path)
                        yield path


def _active_prefix(tree: Tree, path: str) -> str | None:
    """The prefix of the first Python on `PATH`: where its link stands if that is a virtual environment (PEP 405)."""
    for directory in path.split(":"):
        names = tree.names(directory) if directory.startswith("/") else []
        for name in ("python", "python3"):
            if name in names and (real := tree.real_path(f"{directory}/{name}")) is not None:
                link = posixpath.dirname(tree.real_path(directory) or directory)
                if "pyvenv.cfg" in tree.names(link):
                    return link
                return posixpath.dirname(posixpath.dirname(real)) or "/"
    return None


def _packages(tree: Tree, directory: str) -> Iterator[InstalledPackage]:
    for name in tree.names(directory):
        path = f"{directory}/{name}"
        if name.endswith(".dist-info"):
            fact = tree.fact(f"{path}/METADATA")
        elif name.endswith(".egg-info"):
            fact = tree.fact(f"{path}/PKG-INFO") or tree.fact(path)
        else:
            continue
        if fact is None:
            continue
        project, _, version = fact.decode("utf-8", "replace").partition(" ")
        record = tree.fact(f"{path}/RECORD")
        digest, size = record.split() if record else (None, b"0")
        yield InstalledPackage(
            canonicalize_name(project), version, directory, Digest(digest.decode()) if digest else None, int(size)
        )


def annotated(document: Mapping[str, object], installed: Installed) -> dict[str, object]:
    """A manifest with what its image has installed."""
    annotations = document.get("annotations")
    own = dict(annotations) if isinstance(annotations, dict) else {}
    return {**document, "annotations": {**own, ANNOTATION: installed.to_json()}}
