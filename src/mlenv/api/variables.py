"""Environment variables of a definition: what they may be called, and what they may not hold."""

import re
from typing import Final

from mlenv.api.fields import Fields, from_flag
from mlenv.api.problems import CredentialInUrl, Findings, InvalidField
from mlenv.api.yaml_text import Kind, Scalar, YamlMap, describe
from mlenv.core.redact import has_credentials

#: What a variable may be called.
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SUSPICIOUS: Final = re.compile(
    r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|CONNECTION_STRING|(?:^|_)(?:API|ACCESS|PRIVATE|ACCOUNT)?_?KEY$|(?:^|_)PAT$",
    re.IGNORECASE,
)


def read_variables(fields: Fields, inherited: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """
    The `environment_variables` of a document, over those that come with a conda file; sorted by name.

    Secrets are refused where they are certain (a URL with credentials), and warned of where they are likely.
    """
    table = fields.table("environment_variables")
    own = check_variables(table, fields.findings, path="environment_variables") if table else ()
    return tuple(sorted({**dict(inherited), **dict(own)}.items()))


def check_variables(table: YamlMap, findings: Findings, *, path: str) -> tuple[tuple[str, str], ...]:
    """Check a mapping of variables; those with faults are left out."""
    variables = []
    for name, value in table.entries.items():
        where, place = f"{path}.{name}", table.keys[name].place
        if not NAME.fullmatch(name):
            findings.add(
                InvalidField(
                    "not the name of an environment variable",
                    place,
                    path=where,
                    expected="letters, digits and `_`, no digit first",
                )
            )
        elif not isinstance(value, Scalar) or (value.kind is Kind.NULL and not from_flag(value)):
            findings.add(
                InvalidField("Not a valid string.", value.place, path=where, found=describe(value), expected="text")
            )
        elif has_credentials(value.text):
            problem = CredentialInUrl(value.place, path=where)
            problem.hint = "give the variable where the environment runs, not where it is defined"
            findings.add(problem)
        else:
            if _SUSPICIOUS.search(name) and value.text:
                findings.warn(place, f"{name} looks like a secret: anyone who can read this version can read its value")
            variables.append((name, value.text))
    return tuple(variables)
