"""What a registry answers when it can't: nothing of that name, another content, an archived environment."""

from collections.abc import Iterable, Sequence

from mlenv.core.difference import difference
from mlenv.core.reference import LATEST, EnvironmentName, LabelName, VersionName
from mlenv.core.spec import Spec
from mlenv.errors import Conflict, InvalidInput, NotFound

#: How many near names or newest versions a message shows.
_SHOWN = 5


class EnvironmentNotFound(NotFound):
    """
    No environment has that name.

    Attributes:
        near: Names that are there and look alike, the nearest first.
    """

    def __init__(self, name: EnvironmentName, names: Iterable[str] = ()) -> None:
        super().__init__(f"no environment is named {name!r}")
        self.name = name
        self.near = tuple(_near(name, names))
        self.hint = (
            f"did you mean {_either(self.near)}?"
            if self.near
            else "see what there is with `mlenv environment list --include-archived`"
        )


class VersionNotFound(NotFound):
    """
    The environment is there, that version of it is not.

    Attributes:
        versions: The newest versions that are there, the newest first.
    """

    def __init__(self, name: EnvironmentName, version: VersionName, versions: Sequence[str] = ()) -> None:
        super().__init__(f"environment {name!r} has no version {version!r}")
        self.name, self.version, self.versions = name, version, tuple(versions[:_SHOWN])
        if version == str(LATEST):
            self.hint = f"the newest is `{name}@{LATEST}`, or just `{name}`"
        elif len(versions) > 1:
            self.hint = f"its newest versions are {', '.join(self.versions)}"
        else:
            self.hint = f"its only version is {versions[0]}" if versions else "it has no versions yet"


class LabelNotFound(NotFound):
    """The environment is there, that label of it is not."""

    def __init__(self, name: EnvironmentName, label: LabelName, labels: Iterable[str] = ()) -> None:
        super().__init__(f"environment {name!r} has no label {label!r}")
        self.name, self.label = name, label
        self.labels = (LATEST, *sorted(labels))
        there = f"its labels are {', '.join(self.labels)}" if len(self.labels) > 1 else f"its only label is {LATEST}"
        self.hint = f"{there}; set one with `mlenv environment label set`"


class ComputedLabel(InvalidInput):
    """`latest` was to be set."""

    hint = "choose another label: `latest` always means the version created last"

    def __init__(self) -> None:
        super().__init__("the label 'latest' is computed, it can't be set")


class VersionConflict(Conflict):
    """
    The version exists with other content.

    Attributes:
        stored: What the version is.
        given: What it should have become.
        difference: Readable lines that lead from the one to the other.
    """

    hint = "leave the version out to get the next one, or name a version that is free"

    def __init__(self, name: EnvironmentName, version: VersionName, *, stored: Spec, given: Spec) -> None:
        super().__init__(
            f"environment {name} with version {version} is already registered with other content and cannot be changed"
        )
        self.name, self.version, self.stored, self.given = name, version, stored, given

    @property
    def difference(self) -> list[str]:
        """What leads from the stored content to the given one."""
        return difference(self.stored, self.given)


class EnvironmentArchived(Conflict):
    """A version was to be restored while its whole environment is archived."""

    def __init__(self, name: EnvironmentName, version: VersionName) -> None:
        super().__init__(f"version {version!r} can't be restored: all of environment {name!r} is archived")
        self.name, self.version = name, version
        self.hint = f"restore the environment first: `mlenv environment restore {name}`"


class VersionChanged(Conflict):
    """Somebody else changed the version between reading and writing."""

    hint = "look at it again, and repeat the change if it is still right"

    def __init__(self, name: EnvironmentName, version: VersionName) -> None:
        super().__init__(f"{name}:{version} was changed by somebody else in the meantime")
        self.name, self.version = name, version


def _near(name: str, names: Iterable[str]) -> list[str]:
    """Names that differ in case, that begin alike, or that a slip of the hand leads to."""
    import difflib

    folded: dict[str, str] = {}
    for each in names:
        folded.setdefault(each.casefold(), each)
    wanted = name.casefold()
    near = difflib.get_close_matches(wanted, folded, n=_SHOWN, cutoff=0.6)
    return [folded[each] for each in near]


def _either(names: Sequence[str]) -> str:
    if len(names) == 1:
        return repr(names[0])
    return f"{', '.join(repr(name) for name in names[:-1])} or {names[-1]!r}"
