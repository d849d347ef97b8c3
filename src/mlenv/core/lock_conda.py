"""The conda packages of a lock on disk: `[[tool.mlenv.conda]]` of its `pylock.toml`, which PEP 751 leaves to each tool."""

from collections.abc import Mapping
from typing import Any, Final

from mlenv.core.conda_package import CondaPackage
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, InvalidLock, get_typed

_KEYS: Final[Mapping[str, type]] = {
    "name": str,
    "version": str,
    "build": str,
    "build_number": int,
    "subdir": str,
    "channel": str,
    "filename": str,
    "url": str,
    "size": int,
    "hashes": dict,
    "depends": list,
    "constrains": list,
    "noarch": str,
    "timestamp": int,
    "license": str,
    "site_packages": str,
    "requested": str,
}
_OPTIONAL: Final = ("noarch", "timestamp", "license", "site_packages", "requested")


def conda_to_dict(package: CondaPackage) -> dict[str, Any]:
    """One entry. Keys are those of conda's own records, but for the hashes, which are as in the lock's other entries."""
    hashes = {"sha256": package.artifact.digest.hex}
    document: dict[str, Any] = {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "build_number": package.build_number,
        "subdir": package.subdir,
        "channel": package.channel,
        "filename": package.artifact.filename,
        "url": package.url,
        "size": package.artifact.size,
        "hashes": hashes | ({"md5": package.md5} if package.md5 is not None else {}),
    }
    for key in ("depends", "constrains"):
        if values := getattr(package, key):
            document[key] = list(values)
    values = {key: getattr(package, key) for key in _OPTIONAL}
    return document | {key: value for key, value in values.items() if value is not None}


def conda_from_dict(document: Mapping[str, Any]) -> CondaPackage:
    """
    Read what `conda_to_dict` gave.

    Raises:
        InvalidLock, InvalidCondaPackage, InvalidDigest: It is not such an entry.
        KeyError, TypeError: Something is missing, or it is no mapping.
    """
    if strange := sorted(document.keys() - _KEYS.keys()):
        raise InvalidLock(f"a lock with a conda package that has {strange[0]!r}")
    values: dict[str, Any] = {key: get_typed(document, key, _KEYS[key]) for key in document}
    hashes = values["hashes"]
    return CondaPackage(
        name=values["name"],
        version=values["version"],
        build=values["build"],
        build_number=values["build_number"],
        subdir=values["subdir"],
        channel=values["channel"],
        artifact=Artifact(
            values["filename"],
            values["size"],
            Digest.parse(f"sha256:{get_typed(hashes, 'sha256', str)}"),
            values["url"],
        ),
        md5=get_typed(hashes, "md5", str) if "md5" in hashes else None,
        depends=_texts(values, "depends"),
        constrains=_texts(values, "constrains"),
        **{key: values.get(key) for key in _OPTIONAL},
    )


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = values.get(key, [])
    if not all(isinstance(each, str) for each in found):
        raise InvalidLock(f"a lock with {key} = {found!r:.200}, expected text")
    return tuple(found)
