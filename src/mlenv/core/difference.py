"""The difference between two specs, in lines that a person reads."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlenv.core.spec import BuildContext, Index, Requirement, Sources, Spec

#: Unchanged lines shown around a change.
_CONTEXT = 2


def describe(spec: Spec) -> dict[str, list[str]]:
    """
    Everything that counts for a spec's identity, by the field's name in an environment YAML, in readable lines.

    Fields that are not set are left out. Two specs with the same description have the same digest.
    """
    fields: dict[str, list[str]] = {
        "image": _text(spec.image),
        "build": _build(spec.build) if spec.build else [],
        "conda_file": _yaml_like(json.loads(spec.conda.document)) if spec.conda else [],
        "requirements": _requirements(spec.requirements),
        "constraints": _requirements(spec.constraints),
        "pylock": spec.pylock.splitlines() if spec.pylock is not None else [],
        "indexes": _sources(spec.sources),
        "python": _text(spec.python),
        "environment_variables": [f"{name}: {value}" for name, value in spec.environment_variables],
        "platforms": [str(each) for each in spec.platforms],
        "allow_source": list(spec.allow_source),
        "prereleases": ["true"] if spec.prereleases else [],
        "os_type": [spec.os_type],
        "inference_config": _yaml_like(spec.to_dict()["inference_config"]) if spec.inference_config else [],
        "cuda": _text(spec.cuda),
        "resolver": [spec.resolver] if spec.resolver != "conda" else [],
    }
    return {name: lines for name, lines in fields.items() if lines}


def difference(old: Spec, new: Spec) -> list[str]:
    """
    What leads from one spec to another, field by field: a field's name, then `- ` and `+ ` lines as in a diff.

    Returns:
        Lines without line ends; none if both say the same.
    """
    before, after = describe(old), describe(new)
    lines: list[str] = []
    for name in [*before, *(each for each in after if each not in before)]:
        was, now = before.get(name, []), after.get(name, [])
        if was != now:
            lines.append(f"{name}:")
            lines.extend(_unified(was, now))
    return lines


def _unified(old: Sequence[str], new: Sequence[str]) -> Iterable[str]:
    import difflib

    for line in difflib.unified_diff(old, new, n=_CONTEXT, lineterm=""):
        if line.startswith(("--- ", "+++ ")) and line[4:] == "":
            continue
        if line.startswith("@@"):
            continue
        yield f"  {line[0]} {line[1:]}"


def _build(build: BuildContext) -> list[str]:
    """What a context is, or else where it is."""
    what = f"path: {build.path}" if build.digest is None else f"digest: {build.digest}"
    return [what, f"dockerfile_path: {build.dockerfile_path}"]


def _text(value: str | None) -> list[str]:
    return [] if value is None else [value]


def _requirements(requirements: tuple[Requirement, ...] | None) -> list[str]:
    if requirements is None:
        return []
    return [each.line for each in requirements] or ["(none)"]


def _sources(sources: Sources) -> list[str]:
    lines = [f"default: {_index(sources.default)}"] if sources.default else []
    lines += [f"extra: {_index(each)}" for each in sources.extra]
    return [*lines, "no index"] if sources.no_index else lines


def _index(index: Index) -> str:
    facts = [f"name {index.name}"] if index.name else []
    facts += [f"only for {', '.join(index.packages)}"] if index.packages else []
    facts += ["a page of files"] if index.flat else []
    return f"{index.url} ({'; '.join(facts)})" if facts else index.url


def _yaml_like(value: Any, indent: str = "") -> list[str]:
    """Plain data in the lines a YAML file would have; for reading, not for parsing."""
    if isinstance(value, Mapping):
        return [line for key, each in value.items() for line in _entry(f"{indent}{key}:", each, indent + "  ")]
    if isinstance(value, list):
        return [line for each in value for line in _item(each, indent)]
    return [f"{indent}{_scalar(value)}"]


def _entry(head: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, Mapping | list):
        return [head, *_yaml_like(value, indent)] if value else [f"{head} {_scalar(value)}"]
    return [f"{head} {_scalar(value)}"]


def _item(value: Any, indent: str) -> list[str]:
    if isinstance(value, Mapping | list) and value:
        first, *rest = _yaml_like(value, indent + "  ")
        return [f"{indent}- {first[len(indent) + 2 :]}", *rest]
    return [f"{indent}- {_scalar(value)}"]


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
