"""From uv's explanation to a failure that says whose line is to blame, and what edit would do."""

import contextlib
from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from mlenv.core.redact import redact
from mlenv.core.spec import PUBLIC
from mlenv.errors import MlenvError, Unavailable
from mlenv.resolve.blame import Blame
from mlenv.resolve.clash import find_clash
from mlenv.resolve.credentials import index_for
from mlenv.resolve.edits import Edits, swap
from mlenv.resolve.explanation import Explanation
from mlenv.resolve.failures import (
    CredentialsRefused,
    IndexUnreachable,
    InvalidRequirement,
    NotYetUploaded,
    NoWheel,
    ProjectNotFound,
    ResolutionFailed,
    VersionConflict,
)
from mlenv.resolve.index_http import HttpFetcher
from mlenv.resolve.index_pages import ProjectPage, read_page
from mlenv.resolve.python_fit import fitting_pythons, listed
from mlenv.resolve.renames import renamed_to
from mlenv.resolve.sdist_peek import declared_needs
from mlenv.resolve.session import Outcome, Session
from mlenv.resolve.source_build import build_failure
from mlenv.resolve.unfit import Unfit
from mlenv.resolve.uv_input import Attempt

#: Bytes of a source distribution that is looked into.
_SOURCE_LIMIT: Final = 1 << 25


class Diagnosis:
    """Finds out why an attempt failed, by reading what uv says and trying edits."""

    def __init__(self, session: Session, attempt: Attempt, fetcher: HttpFetcher) -> None:
        self._session = session
        self._attempt = attempt
        self._fetcher = fetcher
        self._edits = Edits(session)
        self._pages: dict[str, ProjectPage | None] = {}

    def failure(self, explanation: Explanation) -> MlenvError:
        """The failure to raise for what uv said."""
        if outside := self._outside(explanation) or self._unread(explanation):
            return outside
        first = blame = Blame(explanation, self._attempt.lines)
        # (1) What does not exist, exists under another name, or came later.
        if found := self._not_found(blame) or self._by_date(blame) or self._broken_build(blame):
            return found
        # (2) What has no wheel: assume that it may be built, and look what else there is.
        while names := [each for each in blame.explanation.no_wheel if each not in self._attempt.assumed]:
            unfit = Unfit(blame, self._attempt, self._edits, self._page)
            for name in names:
                if found := self._renamed(name, blame) or unfit.failure(name, buildable=True):
                    return found
            outcome = self._assume(dict.fromkeys(names, ()))
            if outcome is None or outcome.found is not None:
                return self._no_wheel(outcome, first)
            blame = Blame(outcome.explanation, self._attempt.lines)
            if found := self._not_found(blame):
                return found
        # (3) What exists, but not so, or not for this Python or system.
        told = blame.explanation
        asked = [each for each in told.bounded if blame.lines(each)]
        unfit = Unfit(blame, self._attempt, self._edits, self._page)
        for name in dict.fromkeys((*told.no_fitting_wheel, *told.no_version, *told.only_other_python, *asked)):
            if found := unfit.failure(name, buildable=False):
                return found
        # (4) What excludes each other.
        return self._conflict(blame, first)

    def _outside(self, explanation: Explanation) -> CredentialsRefused | IndexUnreachable | None:
        url = redact(explanation.url) if explanation.url else "the index"
        if explanation.refused is not None:
            index = index_for(explanation.url or "", self._attempt.request.sources)
            name = index.name if index else None
            return CredentialsRefused(url, explanation.refused, index=name, detail=explanation.detail)
        why = explanation.text.splitlines()[-1].partition("cause: ")[2] or "it did not answer"
        if explanation.missing_directory is not None:
            hint = "leave it out of the definition, or lock where it is"
            return IndexUnreachable(explanation.missing_directory, why, detail=explanation.detail, hint=hint)
        if explanation.unreachable:
            return IndexUnreachable(url, why, detail=explanation.detail)
        return None

    def _unread(self, explanation: Explanation) -> InvalidRequirement | None:
        """
        A line that uv can't read, though `packaging` could.

        uv takes a project file with such a line for one whose dependencies only a build can tell, and refuses that
        build without naming the line: so each is tried alone.
        """
        if not explanation.unread_project:
            return None
        for line in self._attempt.lines:
            outcome = self._edits.run(self._attempt.with_lines([line]))
            if outcome is not None and outcome.explanation.unread_project:
                return InvalidRequirement(line.source, "uv can't read this line")
        return None

    def _not_found(self, blame: Blame) -> ResolutionFailed | None:
        if not blame.explanation.not_found:
            return None
        name = blame.explanation.not_found[0]
        if found := self._renamed(name, blame):
            return found
        where = "the indexes named" if self._attempt.request.sources != PUBLIC else "the index"
        failure = ProjectNotFound(
            blame.message(name, f"there is no project `{name}` on {where}"),
            **blame.facts(name),
            hint=f"check the spelling of `{name}`; if it is on an index of your own, name that with "
            "`--extra-index-url` in the requirements",
        )
        failure.project = name
        return failure

    def _renamed(self, name: str, blame: Blame) -> ProjectNotFound | None:
        new = renamed_to(name)
        if new is None:
            return None
        lines = blame.lines(name)
        edited = swap(self._attempt, {each: each.renamed(new) for each in lines})
        action = f"write `{lines[0].renamed(new).text}` instead" if lines else f"what needs it should ask for `{new}`"
        failure = ProjectNotFound(
            blame.message(name, f"`{name}` is not that project's name: it is `{new}`"),
            **blame.facts(name),
            hint=action,
            verified=bool(lines) and self._edits.solves(edited),
        )
        failure.project, failure.renamed_to = name, new
        return failure

    def _by_date(self, blame: Blame) -> ResolutionFailed | None:
        as_of = self._attempt.request.as_of
        if as_of is None or not blame.explanation.filtered_by_date:
            return None
        name = blame.explanation.filtered_by_date[0]
        what = f"nothing that fits `{name}{blame.bounds(name)}` was uploaded by {as_of:%Y-%m-%d}"
        hint = "choose a later `--as-of`, or leave it out"
        if blame.explanation.undated:
            what = f"the index that has {name} does not say when its files were uploaded"
            hint = "leave `--as-of` out, or use an index that tells upload times (PEP 700)"
        failure = NotYetUploaded(
            blame.message(name, what),
            **blame.facts(name),
            hint=hint,
            verified=self._edits.solves(replace(self._attempt, request=replace(self._attempt.request, as_of=None))),
        )
        failure.project = name
        return failure

    def _broken_build(self, blame: Blame) -> ResolutionFailed | None:
        if blame.explanation.broken_build is None:
            return None
        name, version = blame.explanation.broken_build
        if name in blame.explanation.no_wheel:
            return None
        return self._renamed(name, blame) or build_failure(name, version, blame.explanation, blame.roots(name))

    def _assume(self, needs: Mapping[str, tuple[str, ...]]) -> Outcome | None:
        """Take projects as source that needs these, and try; with what the source itself says it needs, try again."""
        self._attempt = replace(self._attempt, assumed={**self._attempt.assumed, **needs})
        outcome = self._edits.run(self._attempt)
        said: dict[str, tuple[str, ...]] = {}
        for each in (outcome.found or ()) if outcome else ():
            if each.wheel is None and each.source is not None and self._attempt.assumed.get(each.name) == ():
                with contextlib.suppress(Unavailable):
                    data = self._fetcher.read(each.source.url, self._attempt.request.sources, limit=_SOURCE_LIMIT)
                    said[each.name] = declared_needs(each.source.filename, data)
        said = {name: found for name, found in said.items() if found}
        return self._assume(said) if said else outcome

    def _no_wheel(self, outcome: Outcome | None, blame: Blame) -> NoWheel:
        """The failure for all that must be built, as far as it is known."""
        built = [each.name for each in outcome.found or () if each.wheel is None] if outcome else []
        names = sorted(built or self._attempt.assumed, key=lambda each: (not blame.chain(each), each))
        target = self._attempt.request.target
        page = self._page(names[0]) if len(names) == 1 else None
        others = fitting_pythons(page.matching(blame.bounds(names[0])), target) if page else ()
        has = "has no wheel" if len(names) == 1 else "have no wheels"
        also = f" (it has wheels for Python {listed(others)})" if others else ""
        what = f"{', '.join(names)} {has} for Python {target.python_minor}, {target.platform}, only source{also}"
        failure = NoWheel(
            blame.message(names[0], what),
            lines=list(dict.fromkeys(line for name in names for line in blame.roots(name))),
            chain=blame.chain(names[0]),
            detail=blame.explanation.detail,
            hint=f"allow {'its build' if len(names) == 1 else 'their builds'} from source, which runs code of its "
            f"authors: `allow_source: [{', '.join(names)}]` in the environment file, or "
            f"{' '.join(f'`--allow-source {each}`' for each in names)}, or `--allow-source-auto`",
            verified=outcome is not None,
        )
        failure.projects = tuple(sorted(names))
        return failure

    def _conflict(self, blame: Blame, first: Blame) -> VersionConflict:
        clash = find_clash(blame.explanation.needs, blame.asked, self._page)
        lines = blame.suspects(clash.parents if clash else ())
        edit = self._edits.relax(self._attempt, lines)
        hint = "choose other versions of these lines together, or give the parts that clash an environment each"
        if edit is not None:
            hint = edit.hint
            lines.sort(key=lambda each: each != edit.line)
        shown = [str(each.source) for each in lines] or ["these requirements"]
        said = clash.text if clash else "no versions of these fit together"
        told = [blame] if blame is first else [first, blame]
        failure = VersionConflict(
            f"{' and '.join(shown[:3])}: {said}",
            lines=[each.source for each in lines],
            chain=clash.chain if clash else (),
            hint=hint,
            detail="\n\n".join(each.explanation.detail for each in told),
            verified=edit is not None,
        )
        failure.project = clash.project if clash else None
        return failure

    def _page(self, name: str) -> ProjectPage | None:
        if name not in self._pages:
            self._pages[name] = read_page(name, self._attempt.request.sources, self._session.public, self._fetcher)
        return self._pages[name]
