"""
A lock with conda packages in the words of others, as text: nothing here installs or asks anybody.

`pixi.lock` is rattler-lock's format 6, which pixi and rattler read; `conda-lock.yml` is conda-lock's format 1; an
`@EXPLICIT` list is what `conda create --file` takes (CEP 23). The same lock gives the same text.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

from mlenv.core.conda_package import CondaPackage, channels_of, subdir_of
from mlenv.core.lock import Lock, LockedPackage
from mlenv.errors import InvalidInput

#: What YAML does not take within quotes as it is, beyond what JSON escapes (YAML 1.2.2, section 5.1).
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class NotExportable(InvalidInput):
    """A lock that a format has no words for."""

    def __init__(self, form: str, why: str, hint: str) -> None:
        super().__init__(f"the lock can't be written as {form}: {why}")
        self.form, self.why, self.hint = form, why, hint


def lock_text(lock: Lock, filename: str) -> str:
    """
    A lock in the format that a file's name stands for: `pylock.toml`, unless it is called as the others' locks are.

    `pixi.lock` is rattler-lock, `conda-lock.yml` conda-lock, both with any prefix before a dot or hyphen; `*.txt` is an
    `@EXPLICIT` list.

    Raises:
        NotExportable: The format has no words for this lock.
    """
    for pattern, write in _FORMATS.items():
        if re.fullmatch(pattern, filename):
            return write(lock)
    return lock.to_pylock()


def to_rattler_lock(lock: Lock) -> str:
    """`pixi.lock`, format 6, with one environment, `default`. Raises `NotExportable`."""
    _require(lock, "pixi.lock")
    packages: list[dict[str, Any]] = [{"conda": each.url} for each in lock.conda]
    packages += [{"pypi": each.artifact.url} for each in lock.packages]
    environment = {"channels": [{"url": f"{each}/"} for each in channels_of(lock.conda)]}
    document = {
        "version": 6,
        "environments": {"default": environment | {"packages": {subdir_of(lock.target.platform): packages}}},
        "packages": [*map(_rattler_conda, lock.conda), *map(_rattler_pypi, lock.packages)],
    }
    return "".join(f"{line}\n" for line in _yaml(document))


def to_conda_lock(lock: Lock) -> str:
    """`conda-lock.yml`, format 1. Raises `NotExportable`."""
    _require(lock, "conda-lock.yml")
    if unknown := [each.name for each in lock.conda if each.md5 is None]:
        raise NotExportable(
            "conda-lock.yml",
            f"it knows conda packages by their MD5, and the channel gives none of {unknown[0]}",
            "write a pixi.lock, which knows them by their SHA-256",
        )
    subdir = subdir_of(lock.target.platform)
    document = {
        "version": 1,
        "metadata": {
            "content_hash": {subdir: lock.digest.hex},
            "channels": [{"url": each, "used_env_vars": []} for each in channels_of(lock.conda)],
            "platforms": [subdir],
            "sources": ["environment.yml"],
        },
        "package": [
            *(_conda_lock_entry(each, subdir) for each in lock.conda),
            *(_conda_lock_pip(each, subdir) for each in lock.packages),
        ],
    }
    return "".join(f"{line}\n" for line in _yaml(document))


def to_explicit(lock: Lock) -> str:
    """An `@EXPLICIT` list, each package after what it needs; PyPI's as comments, as conda-lock has it."""
    _require(lock, "an @EXPLICIT list")
    lines = ["# made by mlenv", f"# platform: {subdir_of(lock.target.platform)}", "@EXPLICIT"]
    lines += [f"{each.url}#{each.md5 or f'sha256:{each.artifact.digest.hex}'}" for each in _in_order(lock.conda)]
    lines += [f"# pip {each.name} @ {each.artifact.url}#sha256={each.artifact.digest.hex}" for each in lock.packages]
    return "\n".join([*lines, ""])


_FORMATS: Final[Mapping[str, Callable[[Lock], str]]] = {
    r"(?:.*[.-])?pixi\.lock": to_rattler_lock,
    r"(?:.*[.-])?conda-lock\.ya?ml": to_conda_lock,
    r".*\.txt": to_explicit,
}


def _require(lock: Lock, form: str) -> None:
    if not lock.conda:
        raise NotExportable(form, "it has no conda packages", "write `pylock.toml`, which pip and uv read")
    for package in lock.packages:
        url = package.artifact.url
        if url is None:
            why = f"{package.name} was built here, and has no address"
            raise NotExportable(form, why, "write `pylock.toml`, beside which such wheels are put")
        if re.search(r"[\s\x00-\x1f\x7f]", f"{package.name}{package.version}{url}"):
            raise NotExportable(form, f"{package.name!r} has blanks in its name, version or address", "lock it again")


def _rattler_conda(package: CondaPackage) -> dict[str, Any]:
    """An entry of rattler-lock 6. What follows from the address is left out there, and told only where it differs."""
    usual = f"{package.channel}/{package.subdir}/{package.artifact.filename}"
    document: dict[str, Any] = {"conda": package.url}
    if package.url not in (usual, f"{package.channel}/{package.subdir}/{quote(package.artifact.filename)}"):
        document |= {"name": package.name, "version": package.version, "build": package.build}
        document |= {"subdir": package.subdir, "channel": f"{package.channel}/"}
    document |= {"build_number": package.build_number, "sha256": package.artifact.digest.hex, "md5": package.md5}
    document |= {"noarch": package.noarch, "depends": list(package.depends), "constrains": list(package.constrains)}
    document |= {"license": package.license, "size": package.artifact.size, "timestamp": package.timestamp}
    document["python_site_packages_path"] = package.site_packages
    return {key: value for key, value in document.items() if value not in (None, [])}


def _rattler_pypi(package: LockedPackage) -> dict[str, Any]:
    document = {
        "pypi": package.artifact.url,
        "name": package.name,
        "version": package.version,
        "sha256": package.artifact.digest.hex,
        "requires_dist": list(package.requires),
    }
    return {key: value for key, value in document.items() if value != []}


def _conda_lock_entry(package: CondaPackage, subdir: str) -> dict[str, Any]:
    dependencies: dict[str, str] = {}
    for each in package.depends:
        name, _, bounds = each.strip().partition(" ")
        both = filter(None, (dependencies.get(name), bounds.strip()))
        dependencies[name] = ",".join(both)
    return {
        "name": package.name,
        "version": package.version,
        "manager": "conda",
        "platform": subdir,
        "dependencies": dependencies,
        "url": package.url,
        "hash": {"md5": package.md5, "sha256": package.artifact.digest.hex},
        "category": "main",
        "optional": False,
    }


def _conda_lock_pip(package: LockedPackage, subdir: str) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "manager": "pip",
        "platform": subdir,
        "dependencies": dict.fromkeys(package.requires, ""),
        "url": package.artifact.url,
        "hash": {"sha256": package.artifact.digest.hex},
        "category": "main",
        "optional": False,
    }


def _in_order(packages: Iterable[CondaPackage]) -> list[CondaPackage]:
    """Each after what it needs; those that need each other as they come."""
    known = {each.name: each for each in packages}
    order: dict[str, CondaPackage] = {}
    waiting = [iter(sorted(known))]
    path: list[str] = []
    while waiting:
        name = next(waiting[-1], None)
        if name is None:
            waiting.pop()
            if path:
                done = path.pop()
                order[done] = known[done]
        elif name in known and name not in order and name not in path:
            path.append(name)
            waiting.append(iter(sorted(re.split(r"[\s=<>!~\[]", each, maxsplit=1)[0] for each in known[name].depends)))
    return list(order.values())


def _yaml(value: Any) -> list[str]:
    """Lines of a YAML document (1.2): mappings and lists in blocks, texts in double quotes."""
    if isinstance(value, dict):
        lines = []
        for key, inner in value.items():
            shown = key if re.fullmatch("[a-z_][a-z0-9_-]*", key) and key not in _WORDS else _scalar(key)
            nested = isinstance(inner, (dict, list)) and bool(inner)
            lines += (
                [f"{shown}:", *(f"  {line}" for line in _yaml(inner))] if nested else [f"{shown}: {_scalar(inner)}"]
            )
        return lines
    lines = []
    for inner in value:
        first, *rest = _yaml(inner) if isinstance(inner, dict) and inner else [_scalar(inner)]
        lines += [f"- {first}", *(f"  {line}" for line in rest)]
    return lines


#: Keys that YAML 1.1 takes for something else than text.
_WORDS: Final = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])


def _scalar(value: Any) -> str:
    """JSON's spelling, which YAML takes too (YAML 1.2.2, section 1.2)."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
