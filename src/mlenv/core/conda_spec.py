"""The few conda match specs that name what PyPI has under the same name: `pip`, `setuptools`, `wheel`."""

import re

from mlenv.core.spec import Requirement

_SPEC = re.compile(r"(?:[\w./-]+::)?(?P<name>[\w.-]+)\s*(?P<operator>==|=|[<>!~]=?)?\s*(?P<version>[^\s=]*)?.*")


def to_pip_requirement(spec: Requirement) -> Requirement:
    """
    A conda match spec as a PEP 508 requirement from the same line.

    `pip=20.2` is conda's fuzzy equality, `pip==20.2.*`; `pip=20.2=py37_0` loses its build; `pip>=20,<22` stays.
    """
    match = _SPEC.fullmatch(spec.text.strip())
    if match is None or not match["version"]:
        return Requirement(match["name"] if match else spec.text, spec.origin)
    version = match["version"]
    if match["operator"] == "=" and not version.endswith("*"):
        return Requirement(f"{match['name']}=={version}.*", spec.origin)
    operator = "==" if match["operator"] in ("=", "==") else match["operator"] or "=="
    return Requirement(f"{match['name']}{operator}{version}", spec.origin)
