"""What every `service.repositories.RepositoryStore` must do: one suite over SQLite and PostgreSQL."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from mlenv.core.audit import Author
from mlenv.core.digest import Digest
from mlenv.core.image import MANIFEST_TYPE
from mlenv.core.manifests import Part
from mlenv.core.repositories import InvalidManifest, PartsMissing, RepositoryName, StoredManifest, Tag
from mlenv.store.audit import NoAuthor
from mlenv.store.database import Database
from mlenv.store.sql_repositories import SqlRepositories
from mlenv.store.sql_site import SqlSite

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AUTHOR = Author("0", "root")
APP, OTHER = RepositoryName("app"), RepositoryName("app/other")
BLOB, FAR = Digest.of(b"blob"), Digest.of(b"far", "sha512")
ONE = StoredManifest(Digest.of(b"one"), MANIFEST_TYPE, 3, NOW)


@pytest.fixture
def store(database: Database) -> SqlRepositories:
    return SqlRepositories(database, "team", author=AUTHOR)


def told(database: Database) -> list[tuple[str, str]]:
    """The audit in short."""
    return [(each.change.action, each.change.subject) for each in SqlSite(database).audit(None, limit=100)]


def test_a_repository_has_blobs_until_they_are_removed(store: SqlRepositories, database: Database) -> None:
    assert not store.is_known(APP)
    for _ in range(2):
        store.add_blob(APP, BLOB, 4, now=NOW)
    store.add_blob(OTHER, FAR, 1 << 40, now=NOW)
    assert (store.blob(APP, BLOB), store.blob(APP, FAR), store.blob(OTHER, FAR)) == (4, None, 1 << 40)
    assert store.is_known(APP)
    elsewhere = SqlRepositories(database, "registry:team", author=AUTHOR)
    assert elsewhere.blob(APP, BLOB) is None
    elsewhere.add_blob(APP, BLOB, 4, now=NOW)
    assert sorted(store.having(BLOB)) == ["registry:team", "team"]
    assert [store.remove_blob(APP, BLOB, now=NOW) for _ in range(2)] == [True, False]
    assert list(store.having(BLOB)) == ["registry:team"]
    assert told(database) == [("blob.delete", f"app@{BLOB}")]


def test_a_manifest_comes_with_its_tags_or_not_at_all(store: SqlRepositories, database: Database) -> None:
    parts = [Part(BLOB, 4), Part(FAR, 9, optional=True)]
    with pytest.raises(PartsMissing) as refused:
        store.put_manifest(APP, ONE, [*parts, Part(Digest.of(b"x"), 1)], [Tag("v1")], now=NOW)
    assert refused.value.digests == (BLOB, Digest.of(b"x"))
    assert (store.manifest(APP, ONE.digest), store.manifest(APP, Tag("v1"))) == (None, None)
    store.add_blob(APP, BLOB, 4, now=NOW)
    with pytest.raises(InvalidManifest, match="has 5 bytes; it has 4"):
        store.put_manifest(APP, ONE, [Part(BLOB, 5)], now=NOW)
    for _ in range(2):
        store.put_manifest(APP, ONE, parts, [Tag("v1"), Tag("latest")], now=NOW)
    assert store.manifest(APP, ONE.digest) == store.manifest(APP, Tag("latest")) == ONE
    assert store.manifest(OTHER, ONE.digest) is None
    created = [("manifest.create", f"app@{ONE.digest}"), ("tag.set", "app:v1"), ("tag.set", "app:latest")]
    assert told(database) == created


def test_a_tag_moves_and_goes(store: SqlRepositories, database: Database) -> None:
    two = replace(ONE, digest=Digest.of(b"two", "sha512"), annotations={"a": "é"}, artifact_type="kind")
    for manifest in (ONE, two):
        store.put_manifest(APP, manifest, [], [Tag("v")], now=NOW)
    assert store.manifest(APP, Tag("v")) == two
    assert [store.remove_tag(APP, Tag("v"), now=NOW) for _ in range(2)] == [True, False]
    assert store.manifest(APP, Tag("v")) is None
    assert store.manifest(APP, two.digest) == two
    assert [action for action, _ in told(database)][-2:] == ["tag.set", "tag.delete"]


def test_a_manifest_takes_its_tags_along(store: SqlRepositories) -> None:
    two = replace(ONE, digest=Digest.of(b"two"))
    store.put_manifest(APP, ONE, [], [Tag("a"), Tag("b")], now=NOW)
    store.put_manifest(APP, two, [Part(ONE.digest, ONE.size)], [Tag("c")], now=NOW)
    assert [store.remove_manifest(APP, ONE.digest, now=NOW) for _ in range(2)] == [True, False]
    assert store.tags(APP, after=None, limit=9) == ["c"]
    assert store.manifest(APP, Tag("a")) is None


def test_tags_are_listed_in_pages(store: SqlRepositories) -> None:
    names = ["10", "A", "a", "B", "b.1", "b_1"]
    store.put_manifest(APP, ONE, [], [Tag(each) for each in reversed(names)], now=NOW)
    store.put_manifest(OTHER, ONE, [], [Tag("other")], now=NOW)
    assert store.tags(APP, after=None, limit=100) == names
    assert store.tags(APP, after="A", limit=2) == ["a", "B"]
    # A tag need not be there for the list to go on after it.
    assert store.tags(APP, after="b.0", limit=1) == ["b.1"]
    assert store.tags(APP, after="z", limit=1) == []


def test_referrers_are_listed_by_kind_and_in_pages(store: SqlRepositories) -> None:
    subject = Digest.of(b"subject")
    made = sorted(
        (
            replace(ONE, digest=Digest.of(b"%d" % each), subject=subject, artifact_type="even" if each % 2 else None)
            for each in range(6)
        ),
        key=lambda each: str(each.digest),
    )
    for each in made:
        store.put_manifest(APP, each, [], now=NOW)
    store.put_manifest(OTHER, replace(ONE, subject=subject), [], now=NOW)
    assert store.referrers(APP, subject, None, after="", limit=99) == made
    assert store.referrers(APP, subject, None, after=str(made[1].digest), limit=2) == made[2:4]
    even = [each for each in made if each.artifact_type == "even"]
    assert store.referrers(APP, subject, "even", after="", limit=99) == even
    assert store.referrers(APP, ONE.digest, None, after="", limit=99) == []


def test_names_of_repositories_are_listed(store: SqlRepositories, database: Database) -> None:
    for name in ("b", "a/b", "a", "c"):
        for number in range(3):
            manifest = replace(ONE, digest=Digest.of(b"%d" % number))
            store.put_manifest(RepositoryName(name), manifest, [], now=NOW)
    SqlRepositories(database, "other", author=AUTHOR).put_manifest(OTHER, ONE, [], now=NOW)
    assert store.names(after="", limit=9) == ["a", "a/b", "b", "c"]
    assert store.names(after="a", limit=2) == ["a/b", "b"]


def test_what_was_composed_is_nobodys_change(store: SqlRepositories, database: Database) -> None:
    reading = SqlRepositories(database, "team")
    for _ in range(2):
        reading.add_composed(APP, ONE)
    assert store.manifest(APP, ONE.digest) == ONE
    assert told(database) == []


def test_nothing_changes_without_an_author(database: Database) -> None:
    reading = SqlRepositories(database, "team")
    later = NOW + timedelta(hours=1)
    changes: list[Callable[[], object]] = [
        lambda: reading.add_blob(APP, BLOB, 1, now=later),
        lambda: reading.remove_blob(APP, BLOB, now=later),
        lambda: reading.put_manifest(APP, ONE, [], now=later),
        lambda: reading.remove_manifest(APP, ONE.digest, now=later),
        lambda: reading.remove_tag(APP, Tag("v"), now=later),
    ]
    for change in changes:
        with pytest.raises(NoAuthor):
            change()
