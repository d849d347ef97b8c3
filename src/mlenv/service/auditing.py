"""Use cases of the audit: reading it in pages, and finding what was done to it."""

from collections.abc import Iterator
from typing import Final

from mlenv.core.access import Caller, Operation
from mlenv.core.audit import AuditRecord, find_faults
from mlenv.core.scope import ScopeKey, ScopeKind
from mlenv.service.site import Site

#: How many records are read at once.
PAGE: Final = 1000


class Auditing:
    """Reads the audit."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def newest(
        self, caller: Caller, kind: ScopeKind | None = None, name: str = "", *, before: int | None = None, limit: int
    ) -> list[AuditRecord]:
        """
        Records of one namespace, or, without `kind`, all, the newest first.

        Args:
            before: The sequence number of the last record of the page before.

        Raises:
            NotAllowed, ScopeNotFound: As `Site.enter`; without `kind`, as `Site.allow`.
        """
        scope = self._where(caller, kind, name)
        return self._site.store.newest_audit(scope, before=before, limit=limit)

    def oldest(
        self, caller: Caller, kind: ScopeKind | None = None, name: str = "", *, after: int = 0, limit: int
    ) -> list[AuditRecord]:
        """As `newest`, in the order in which they were written, after a sequence number."""
        return self._site.store.audit(self._where(caller, kind, name), after=after, limit=limit)

    def head(self, caller: Caller) -> tuple[int, str]:
        """The sequence number and hash that the whole chain ends with. Raises `NotAllowed`."""
        self._where(caller, None, "")
        return self._site.store.audit_head()

    def faults(self, caller: Caller, head: str | None = None) -> Iterator[str]:
        """
        What was done to the chain, one sentence each; nothing if it is whole. It is read in pages.

        Args:
            head: A hash that it ended with at some time, noted elsewhere.

        Raises:
            NotAllowed: The caller is not administrator everywhere.
        """
        heads = [self.head(caller)[1], *([head] if head else [])]
        yield from find_faults(self._all(), heads)

    def _all(self) -> Iterator[AuditRecord]:
        after = 0
        while page := self._site.store.audit(None, after=after, limit=PAGE):
            yield from page
            # Numbers that were tampered with must not make it go round in circles.
            after = max(after + 1, page[-1].sequence)

    def _where(self, caller: Caller, kind: ScopeKind | None, name: str) -> ScopeKey | None:
        if kind is not None:
            return self._site.enter(caller, Operation.AUDIT_READ, kind, name).key
        self._site.allow(caller, Operation.AUDIT_READ)
        return None
