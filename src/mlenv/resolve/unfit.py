"""What exists, but not so: no such version, or none for this Python or this system."""

from collections.abc import Callable, Sequence

from msgspec.structs import replace
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from mlenv.core.redact import redact
from mlenv.resolve.blame import Blame
from mlenv.resolve.edits import Edits, swap
from mlenv.resolve.failures import NoSuchVersion, NoVersionForPython, NoWheel, ResolutionFailed
from mlenv.resolve.index_pages import ProjectPage
from mlenv.resolve.python_fit import fitting_pythons, has_source, has_wheel, listed, nearest
from mlenv.resolve.uv_input import Attempt


class Unfit:
    """
    Compares what is asked of a project with what its page on the index offers.

    Args:
        blame: What uv said, and whose line it is.
        attempt: What failed.
        edits: Tries what would help.
        page: A project's page.
    """

    def __init__(self, blame: Blame, attempt: Attempt, edits: Edits, page: Callable[[str], ProjectPage | None]) -> None:
        self._blame = blame
        self._attempt = attempt
        self._target = attempt.request.target
        self._edits = edits
        self._page = page

    def failure(self, name: str, *, buildable: bool) -> ResolutionFailed | None:
        """
        Why nothing of a project fits, or None if something does, and the reason is another.

        Args:
            name: The project, normalised.
            buildable: Source counts, since it could be allowed.
        """
        page = self._page(name)
        if page is None:
            return None
        bounds = self._blame.bounds(name)
        files = page.matching(bounds)
        if not files:
            return self._no_such_version(name, bounds, page)
        # NOTE: of what comes through others, only one need of several is known: any source of it may do.
        source = files if self._blame.lines(name) else page.files
        may_build = buildable or name in self._blame.explanation.no_wheel
        if has_wheel(files, self._target) or (may_build and has_source(source, self._target)):
            return None
        would_do = fitting_pythons(files, self._target)
        return self._other_python(name, bounds, would_do) if would_do else self._other_systems(name, page)

    def _other_python(self, name: str, bounds: str, would_do: Sequence[str]) -> NoVersionForPython:
        nearby = min(would_do, key=lambda each: abs(_minor(each) - _minor(self._target.python)))
        request = replace(self._attempt.request, target=replace(self._target, python=nearby))
        solved = self._edits.solves(replace(self._attempt, request=request))
        edit = None if solved else self._edits.relax(self._attempt, self._blame.lines(name))
        hint = f'use Python {nearby}: `python: "{nearby}"`'
        if edit is not None:
            hint = f"keep Python {self._target.python_minor}, and {edit.hint}"
        what = f"{name}{bounds} is not made for Python {self._target.python}, only for {listed(would_do)}"
        failure = NoVersionForPython(
            self._blame.message(name, what),
            **self._blame.facts(name),
            hint=hint,
            verified=solved or edit is not None,
        )
        failure.project, failure.python, failure.would_do = name, self._target.python, tuple(would_do)
        return failure

    def _other_systems(self, name: str, page: ProjectPage) -> NoWheel:
        systems = sorted({tag.platform for file in page.files for tag in file.tags} - {"any"})
        word = {"linux": "linux", "darwin": "darwin", "windows": "win32"}[self._target.platform.os]
        failure = NoWheel(
            self._blame.message(name, f"{name} has wheels only for {', '.join(systems)}, and no source that would do"),
            **self._blame.facts(name),
            hint=f"leave it out here, with a marker behind the line: `{name} ; sys_platform != '{word}'`",
        )
        failure.projects, failure.platforms = (name,), tuple(systems)
        return failure

    def _no_such_version(self, name: str, bounds: str, page: ProjectPage) -> NoSuchVersion:
        near = nearest(bounds, page, self._target)
        withdrawn = _is_withdrawn(bounds, page)
        hint, verified = self._nearest_hint(name, near)
        offered = f"; there are {', '.join(near)}" if near else ""
        newest = next(iter(page.versions()), None)
        if newest is not None and str(newest) not in near:
            offered += f", the newest is {newest}"
        later = self._blame.explanation.later_index
        if later is not None and later[0] == name:
            offered += f" on {redact(later[1])}, and a later index is not asked once one has the project"
            hint, verified = f"pin {name} to the index that has this version: give it `packages: [{name}]`", False
        what = f"{'every' if withdrawn else 'no'} version of {name} that is {bounds or 'there'}"
        failure = NoSuchVersion(
            self._blame.message(name, f"{what} {'was withdrawn' if withdrawn else 'exists'}{offered}"),
            **self._blame.facts(name),
            hint=hint,
            verified=verified,
        )
        failure.project, failure.nearest, failure.yanked = name, near, withdrawn
        return failure

    def _nearest_hint(self, name: str, near: Sequence[str]) -> tuple[str | None, bool]:
        """The nearest version with which it resolves, or else just the nearest; and whether it was tried."""
        lines = self._blame.lines(name)
        if not lines or not near:
            return None, False
        for version in near:
            if self._edits.solves(swap(self._attempt, {each: each.with_specifier(f"=={version}") for each in lines})):
                return f"write `{lines[0].with_specifier(f'=={version}').text}`", True
        return f"write `{lines[0].with_specifier(f'=={near[0]}').text}`", False


def _is_withdrawn(bounds: str, page: ProjectPage) -> bool:
    try:
        wanted = SpecifierSet(bounds)
    except InvalidSpecifier:
        return False
    return any(each.yanked and wanted.contains(each.version, prereleases=True) for each in page.files)


def _minor(python: str) -> int:
    return int(python.split(".")[1])
