"""Reading the fields of a YAML mapping, with every fault noted at its place."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from mlenv.api.problems import Findings, InvalidField, MissingField, Place, UnknownField, nearest
from mlenv.api.yaml_text import Kind, Node, Scalar, YamlList, YamlMap, describe

#: What Azure's users know this mistake by (its client, `CREATE_ENVIRONMENT_ERROR_MESSAGE`).
_CONDA_HINT: Final = (
    "it looks like you are trying to specify a conda file: keep it in a file of its own and name that with "
    "`conda_file`, or write it inline under `conda_file:`"
)

_CONDA_KEYS: Final = ("channels", "dependencies")


def _conda_hint(key: str, known: Iterable[str]) -> str | None:
    """The hint for a key that a conda file has, or nearly."""
    if key in _CONDA_KEYS:
        return _CONDA_HINT
    meant = None if nearest(key, known) else nearest(key, _CONDA_KEYS)
    return f"did you mean `{meant}`, as conda files have it?" if meant else None


def from_flag(node: Node) -> bool:
    """Whether a value was given on the command line, where everything is text."""
    return node.place.line is None


class Fields:
    """
    The fields of one mapping.

    Every method returns None for a field that is not there, or has a fault, which is then in the findings.
    """

    def __init__(self, mapping: YamlMap, schema: Mapping[str, Any], findings: Findings, *, path: str = "") -> None:
        self.mapping = mapping
        self.findings = findings
        self._path = path
        #: What is written there under another name, which is noted.
        self.misspelt: set[str] = set()
        for key in mapping.entries:
            if key not in schema["properties"] or mapping.keys[key].kind is not Kind.STRING:
                place = mapping.keys[key].place
                hint = _conda_hint(key, schema["properties"]) if not path else None
                fault = UnknownField(key, place, path=self.path(key), known=schema["properties"], hint=hint)
                findings.add(fault)
                self.misspelt |= {fault.meant} if fault.meant else set()
        for key in schema.get("required", ()):
            if key not in mapping.entries and key not in self.misspelt:
                findings.add(MissingField("Missing data for required field.", mapping.place, path=self.path(key)))

    def __contains__(self, key: str) -> bool:
        return key in self.mapping.entries

    def path(self, key: str) -> str:
        """The path into the document of one of these fields."""
        return f"{self._path}.{key}" if self._path else key

    def place(self, key: str) -> Place:
        """Where the field's value stands, or the mapping if it is not there."""
        return self.mapping.entries[key].place if key in self.mapping.entries else self.mapping.place

    def node(self, key: str, expected: str) -> Node | None:
        """A field of any type but null."""
        node = self.mapping.entries.get(key)
        if isinstance(node, Scalar) and node.kind is Kind.NULL and not (from_flag(node) and node.text):
            # NOTE: nothing stands where an empty value does, so the key is shown.
            place = node.place if node.text else self.mapping.keys[key].place
            self.findings.add(
                InvalidField(
                    "Field may not be null.", place, path=self.path(key), found=describe(node), expected=expected
                )
            )
            return None
        return node

    def wrong(
        self, key: str, node: Node, expected: str, *, why: str = "Not a valid value.", hint: str | None = None
    ) -> None:
        """Note that a value is not what it should be."""
        self.findings.add(
            InvalidField(why, node.place, path=self.path(key), found=describe(node), expected=expected, hint=hint)
        )

    def text(self, key: str, *, empty: bool = True) -> Scalar | None:
        """A string; numbers and booleans are none, as Azure has it."""
        node = self.node(key, "a string")
        if node is None:
            return None
        if not isinstance(node, Scalar) or not (node.kind is Kind.STRING or from_flag(node)):
            hint = "put it in quotes" if isinstance(node, Scalar) else None
            self.wrong(key, node, "a string", why="Not a valid string.", hint=hint)
            return None
        if not empty and not node.text.strip():
            self.wrong(key, node, "a string that is not empty")
            return None
        return node

    def written(
        self, key: str, kinds: Iterable[Kind], expected: str, *, hint: str | None = "put it in quotes"
    ) -> Scalar | None:
        """A scalar that is kept as it is written; `hint` is for one of another kind."""
        node = self.node(key, expected)
        if node is None:
            return None
        if not isinstance(node, Scalar) or not (node.kind in set(kinds) or from_flag(node)):
            self.wrong(key, node, expected, hint=hint if isinstance(node, Scalar) else None)
            return None
        return node

    def flag(self, key: str) -> bool:
        """A boolean; false if it is not there."""
        node = self.node(key, "true or false")
        if node is None:
            return False
        if not isinstance(node, Scalar) or node.kind is not Kind.BOOLEAN:
            self.wrong(key, node, "true or false", why="Not a valid boolean.")
            return False
        return node.true

    def table(self, key: str) -> YamlMap | None:
        """A mapping."""
        node = self.node(key, "a mapping")
        if node is None or isinstance(node, YamlMap):
            return node
        self.wrong(key, node, "a mapping", why="Not a valid mapping type.")
        return None

    def list(self, key: str, of: str) -> tuple[tuple[str, Node], ...]:
        """A list's items, each with its path; empty if it is not there."""
        node = self.node(key, f"a list of {of}")
        if node is None:
            return ()
        if not isinstance(node, YamlList):
            self.wrong(
                key, node, f"a list of {of}", why="Not a valid list.", hint="write it as `- …` lines or as `[…, …]`"
            )
            return ()
        return tuple((f"{self.path(key)}[{number}]", each) for number, each in enumerate(node.items))

    def texts(self, key: str, of: str) -> tuple[tuple[str, Scalar], ...]:
        """The items of a list of strings, each with its path."""
        items = []
        for path, node in self.list(key, of):
            if isinstance(node, Scalar) and (node.kind is Kind.STRING or from_flag(node)):
                items.append((path, node))
            else:
                self.findings.add(
                    InvalidField(
                        "Not a valid string.", node.place, path=path, found=describe(node), expected="a string"
                    )
                )
        return tuple(items)
