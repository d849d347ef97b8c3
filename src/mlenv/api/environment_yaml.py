"""
The environment YAML: Azure ML's fields (its CLI's environment schema), and ours, into a `Definition`.

What Azure's client refuses is refused here, in its words where its users know them. Beyond that, what its service
refuses is refused at once: a build without a path, a conda file with a build, tags that are not text.
"""

import re
from pathlib import Path
from typing import Final

from mlenv.api import schema
from mlenv.api.dependencies import Dependencies
from mlenv.api.environment_dependencies import read_dependencies
from mlenv.api.environment_parts import (
    read_build,
    read_conda_choices,
    read_inference,
    read_platforms,
    refuse_credential,
)
from mlenv.api.fields import Fields, from_flag
from mlenv.api.files import Read, read_text
from mlenv.api.problems import Findings, InvalidField, MissingField, Place
from mlenv.api.variables import read_variables
from mlenv.api.yaml_text import Kind, Scalar, YamlMap, describe
from mlenv.core.environment import Definition
from mlenv.core.redact import has_credentials
from mlenv.core.reference import EnvironmentName, InvalidName, VersionName, parse_name, parse_version
from mlenv.core.spec import Spec

_TEMPLATE: Final = re.compile(r"\{\{.*?\}\}")
_VERSION_KINDS: Final = (Kind.STRING, Kind.INTEGER, Kind.FLOAT, Kind.BOOLEAN)


def read_environment(
    mapping: YamlMap,
    *,
    base: Path,
    findings: Findings,
    read: Read = read_text,
    direct: Dependencies | None = None,
    needs_image: bool = True,
) -> Definition | None:
    """
    Read an environment.

    Args:
        mapping: The document.
        base: Its directory, to which its paths are relative.
        findings: Takes faults and warnings.
        read: Brings the files it names.
        direct: Dependencies that come from a file of their own (a requirements file, say), not from the document.
        needs_image: Azure's rule, that there is an image or a build, holds.

    Returns:
        The definition; None if there are faults.
    """
    reader = _EnvironmentReader(mapping, base, findings, read)
    return reader.read(direct, needs_image)


class _EnvironmentReader:
    """Reads one environment."""

    def __init__(self, mapping: YamlMap, base: Path, findings: Findings, read: Read) -> None:
        self._mapping, self._base, self._findings, self._read = mapping, base, findings, read
        # NOTE: the name is looked for by `_name`, whose message Azure's users know.
        self._fields = Fields(mapping, {"properties": schema.FIELDS}, findings)

    def read(self, direct: Dependencies | None, needs_image: bool) -> Definition | None:
        """All fields, in the order of the schema, then the rules between them."""
        fields = self._fields
        name, version = self._name(direct is not None), self._version()
        description = fields.text("description")
        tags = self._tags()
        image = self._image()
        build = read_build(fields, self._base)
        dependencies = read_dependencies(fields, base=self._base, read=self._read, direct=direct)
        variables = read_variables(fields, dependencies.variables)
        platforms = read_platforms(fields)
        os_type = self._os_type()
        inference = read_inference(fields)
        cuda, resolver = read_conda_choices(fields, dependencies.conda is not None or "conda_file" in fields)
        self._without_effect()
        self._rules(needs_image and direct is None)
        if self._findings.problems or name is None:
            return None
        spec = Spec(
            image=image,
            build=build,
            conda=dependencies.conda,
            requirements=dependencies.requirements,
            constraints=dependencies.constraints,
            pylock=dependencies.pylock,
            sources=dependencies.sources,
            python=dependencies.python,
            environment_variables=variables,
            platforms=platforms,
            allow_source=dependencies.allow_source,
            prereleases=dependencies.prereleases,
            os_type=os_type,
            inference_config=inference,
            cuda=cuda,
            resolver=resolver,
        )
        return Definition(name, spec, version, description.text if description else None, tags, self._findings.warnings)

    def _name(self, direct: bool) -> EnvironmentName | None:
        if "name" not in self._fields:
            if "name" in self._fields.misspelt:
                return None
            also = " If version is specified, name must be specified also." if "version" in self._fields else ""
            kind = f"; {self._mapping.place.file} says what is installed, not what it is called" if direct else ""
            self._findings.add(
                MissingField(
                    f"Environment name is required.{also}",
                    self._mapping.place,
                    path="name",
                    hint=f"give it with `--name`{kind}",
                )
            )
            return None
        scalar = self._fields.text("name")
        if scalar is None:
            return None
        try:
            name = parse_name(scalar.text)
        except InvalidName as error:
            self._fields.wrong("name", scalar, "an environment name", hint=error.hint)
            return None
        self._warn_of_template("name", scalar)
        return name

    def _version(self) -> VersionName | None:
        if "version" not in self._fields:
            return None
        scalar = self._fields.written("version", _VERSION_KINDS, "a string or a number")
        if scalar is None:
            return None
        try:
            version = parse_version(scalar.text)
        except InvalidName as error:
            self._fields.wrong("version", scalar, "a version", hint=error.hint)
            return None
        self._warn_of_template("version", scalar)
        if not from_flag(scalar) and (read := _as_azure_reads(scalar)) != scalar.text:
            self._findings.warn(
                scalar.place,
                f"the version is kept as written, {scalar.text}; without quotes, Azure's client reads {read}",
            )
        return version

    def _warn_of_template(self, key: str, scalar: Scalar) -> None:
        if _TEMPLATE.search(scalar.text):
            self._findings.warn(scalar.place, f"{key}: {scalar.text} looks like an unfilled template")

    def _tags(self) -> dict[str, str]:
        table = self._fields.table("tags")
        tags: dict[str, str] = {}
        for key, value in (table.entries if table else {}).items():
            assert table is not None
            path = f"tags.{key}"
            if table.keys[key].kind is not Kind.STRING and not from_flag(table.keys[key]):
                self._findings.add(
                    InvalidField(
                        "Not a valid string.",
                        table.keys[key].place,
                        path=path,
                        found=describe(table.keys[key]),
                        expected="a string",
                        hint="put the tag's name in quotes",
                    )
                )
            elif not isinstance(value, Scalar):
                self._findings.add(
                    InvalidField(
                        "a tag can't be nested", value.place, path=path, found=describe(value), expected="text"
                    )
                )
            else:
                tags[key] = "" if value.kind is Kind.NULL and not from_flag(value) else value.text
        return tags

    def _image(self) -> str | None:
        scalar = self._fields.text("image", empty=False)
        if scalar is None:
            return None
        if has_credentials(scalar.text):
            refuse_credential(self._fields, scalar, "image")
        elif any(each.isspace() or not each.isprintable() for each in scalar.text.strip()):
            self._fields.wrong("image", scalar, "an image reference, as in `debian:bookworm`")
        self._warn_of_template("image", scalar)
        return scalar.text.strip()

    def _os_type(self) -> str:
        scalar = self._fields.text("os_type")
        if scalar is None:
            return "linux"
        if scalar.text.lower() not in {"linux", "windows"}:
            self._fields.wrong("os_type", scalar, "linux or windows")
        return scalar.text.lower()

    def _without_effect(self) -> None:
        """Fields that Azure's client takes and that mean nothing here: checked as it does, then dropped."""
        for key in schema.IGNORED:
            self._fields.node(key, "nothing, or a value")
        for key in ("id", "datastore"):
            self._fields.text(key)
        table = self._fields.table("auto_delete_setting")
        if table is not None:
            fields = Fields(table, schema.AUTO_DELETE, self._findings, path="auto_delete_setting")
            condition = fields.text("condition")
            allowed = schema.AUTO_DELETE["properties"]["condition"]["enum"]
            if condition is not None and condition.text.lower() not in allowed:
                fields.wrong("condition", condition, " or ".join(allowed))
            fields.text("value")

    def _rules(self, needs_image: bool) -> None:
        """What fields mean for each other."""
        has = self._fields.__contains__
        if has("image") and has("build"):
            self._clash("build", "Docker image or Dockerfile should be provided not both")
        for key in ("conda_file", "requirements", "python"):
            if has("build") and has(key):
                self._clash(key, f"`{key}` and `build` can't be given together", "install it in the Dockerfile")
        if has("conda_file") and has("requirements"):
            self._clash(
                "requirements",
                "`requirements` and `conda_file` can't be given together",
                "put the requirements into the conda file's `pip:` section",
            )
        bases = {"image", "build", "requirements", "python"}
        if needs_image and not any(map(has, bases)) and not bases & self._fields.misspelt:
            self._findings.add(
                MissingField(
                    "Docker image or Dockerfile is required for environments",
                    self._mapping.place,
                    path="image",
                    hint="add `image:`; for local runs alone, `python:` will do",
                )
            )

    def _clash(self, key: str, why: str, hint: str = "keep one of the two") -> None:
        place: Place = self._mapping.keys[key].place
        self._findings.add(InvalidField(why, place, path=key, hint=hint))


def _as_azure_reads(scalar: Scalar) -> str:
    """What Azure's client, by YAML 1.1 and Python's `str`, makes of a version without quotes."""
    text = scalar.text.replace("_", "")
    try:
        if scalar.kind is Kind.BOOLEAN:
            return str(scalar.true)
        if scalar.kind is Kind.FLOAT and ":" not in text:
            return str(float(text.replace(".inf", "inf").replace(".nan", "nan")))
        if scalar.kind is Kind.INTEGER and ":" not in text:
            octal = re.fullmatch(r"([-+]?)0([0-7]+)", text)
            return str(int(octal[1] + octal[2], 8) if octal else int(text, 0))
    except ValueError:
        pass
    return scalar.text
