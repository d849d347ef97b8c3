"""What must hold of a site after whatever befell it."""

from pathlib import Path

from mlenv.core.audit import find_faults
from mlenv.core.progress import Silent
from mlenv.wiring.hosted import Hosted
from support.builds import address, services_of


def assert_whole(home: Path, url: str | None, *, broken_off: bool = False) -> None:
    """
    Nothing that has a name is lost or damaged, nobody left anything half-written, and every audit record is there.

    Args:
        home: The site's directory, whose servers and workers have ended.
        url: Its database; None for the SQLite file.
        broken_off: The disk went away under a process, which could not remove what it had half-written: that may lie
            there until it is swept.
    """
    with Hosted(home, address(url)) as hosted:
        findings = services_of(hosted).verifying.verify(progress=Silent())
        assert [each.text for each in findings if each.harm] == []
        store = hosted.site.store
        records = store.audit(None, limit=100_000)
        assert len(records) == store.audit_head()[0] > 0
        assert list(find_faults(records, [store.audit_head()[1]])) == []
    left = [each for each in (home / "oci" / "ingest").glob("*/*") if each.is_file()]
    assert broken_off or left == []
