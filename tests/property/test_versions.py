"""The algebra of versions: a total, numeric order, and automatic versions that are always free."""

from hypothesis import given
from hypothesis import strategies as st

from mlenv.core.reference import VersionName
from mlenv.core.versions import FIRST_VERSION, next_after, next_version, version_key

numbers = st.integers(min_value=0, max_value=10**30)
versions = st.one_of(
    numbers.map(str),
    st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}(-?[a-z]{1,3})?", fullmatch=True),
    st.text(st.characters(codec="utf-8", exclude_characters="/:@"), min_size=1, max_size=255),
)


@given(versions, versions)
def test_order_is_total(one: str, other: str) -> None:
    less, more = version_key(one) < version_key(other), version_key(one) > version_key(other)
    assert [less, more, one == other].count(True) == 1


@given(versions, versions, versions)
def test_order_is_transitive(one: str, two: str, three: str) -> None:
    low, middle, high = sorted((one, two, three), key=version_key)
    assert version_key(low) <= version_key(middle) <= version_key(high)
    assert version_key(low) <= version_key(high)


@given(numbers, numbers, st.sampled_from(["", "1.", "v", "2024-"]))
def test_numbers_count_as_numbers(one: int, other: int, before: str) -> None:
    assert (version_key(f"{before}{one}") < version_key(f"{before}{other}")) is (one < other)


@given(st.sets(versions, max_size=20))
def test_next_version_is_free_and_above_all_numbers(taken: set[str]) -> None:
    following = next_version(taken)
    assert following not in taken
    assert following.isdigit()
    assert all(int(following) > int(each) for each in taken if each.isascii() and each.isdigit() and each[0] != "0")


@given(st.lists(versions, max_size=20))
def test_next_version_does_not_depend_on_order(taken: list[str]) -> None:
    following = FIRST_VERSION
    for each in taken:
        following = next_after(following, VersionName(each))
    assert following == next_version(taken) == next_version(reversed(taken))


@given(st.integers(min_value=1, max_value=40))
def test_automatic_versions_count_up_from_one(count: int) -> None:
    taken: list[str] = []
    for _ in range(count):
        taken.append(next_version(taken))
    assert taken == [str(number) for number in range(1, count + 1)]


def test_number_too_long_to_be_followed_does_not_count() -> None:
    assert next_version(["9" * 254]) == "1" + "0" * 254
    assert next_version(["9" * 255]) == "1"
    assert next_version(["9" * 254, "1" + "0" * 254]) == "1" + "0" * 253 + "1"
    assert next_version(["007", "1.2", "٣", "²", "-1", "+5", " 8", "1_000"]) == "1"
