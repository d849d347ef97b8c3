import pytest

from mlenv.resolve.conda_explanation import CondaExplanation, name_of, spoken

_CONFLICT = """\
Cannot solve the request because of: The following packages are incompatible
├─ new * can be installed with any of the following options:
│  └─ new 1.0 would require
│     └─ num >=2, which can be installed with any of the following options:
│        └─ num 2.0 | 2.1 | 2.2 | 2.3
└─ old * cannot be installed because there are no viable options:
   └─ old 1.0 | 1.1 | 1.2 | 1.3 would require
      └─ num <2, which cannot be installed because there are no viable options:
         └─ num 1.0, which conflicts with the versions reported above.
"""
_BOUND = """\
Cannot solve the request because of: The following packages are incompatible
├─ num >=2 can be installed with any of the following options:
│  └─ num 2.0
└─ bound * cannot be installed because there are no viable options:
   └─ bound 1.0 would constrain
      └─ num <2, which conflicts with any installable versions previously reported
"""


def test_both_ways_of_a_conflict() -> None:
    told = CondaExplanation(_CONFLICT)
    assert told.clash is not None
    one, other = told.clash
    assert (one.said, other.said) == ("new 1.0 needs num>=2", "old 1.0 … 1.3 needs num<2")
    assert [each.text for each in one.specs] == ["new *", "num >=2"]
    assert told.missing == ()


def test_a_bound_that_asks_for_nothing() -> None:
    clash = CondaExplanation(_BOUND).clash
    assert clash is not None
    assert (clash[0].said, clash[1].said) == ("you ask for num>=2", "bound 1.0 allows only num<2")


def test_what_is_missing_and_the_way_to_it() -> None:
    told = CondaExplanation("Cannot solve the request because of: No candidates were found for num 9.*.")
    (way,) = told.missing
    assert (way.last.name, way.last.text) == ("num", "num 9.*")
    told = CondaExplanation(
        "Cannot solve the request because of: a * cannot be installed because there are no viable options:\n"
        "└─ a 1.0 would require\n   └─ __cuda >=12, for which no candidates were found.\n"
    )
    (way,) = told.missing
    assert [each.name for each in way.facts] == ["a", "a", "__cuda"]
    assert way.said == "a 1.0 needs __cuda>=12"


def test_what_does_not_count() -> None:
    told = CondaExplanation(
        "Cannot solve the request because of: The following packages are incompatible\n"
        "└─ num >=2 cannot be installed because there are no viable options:\n"
        "   └─ num 2.0 is excluded because the package is uploaded after the cutoff date of 2024-01-01 00:00:00\n"
    )
    (way,) = told.excluded
    assert way.last.why.startswith("the package is uploaded after the cutoff date")


@pytest.mark.parametrize(
    "text", ["", "\n", "├─", "Solve operation has been cancelled", "│  └─ x", "└─ " * 1000, "a\x00b"]
)
def test_what_can_t_be_read_is_left_out(text: str) -> None:
    told = CondaExplanation(text)
    assert told.clash is None
    assert told.missing == ()
    assert told.detail == text.strip()


def test_a_deep_and_long_text_is_cut() -> None:
    told = CondaExplanation("x\n" * 10_000 + "└─ a 1.0\n" * 10)
    assert len(told.detail.splitlines()) == 201
    assert told.clash is None


@pytest.mark.parametrize(
    ("spec", "people"),
    [
        ("num *", "num"),
        ("num", "num"),
        ("num 2.*", "num=2"),
        ("num >=2,<3", "num>=2,<3"),
        ("num ==2.0", "num==2.0"),
        ("num ==2 abc", "num=2=abc"),
        ('num 9.*[channel="https://x.example.org/two/"]', "num=9"),
        ("num >=2|1.* *cuda*", "num >=2|1.* *cuda*"),
    ],
)
def test_specs_as_people_write_them(spec: str, people: str) -> None:
    assert spoken(spec) == people
    assert name_of(spec) == "num"
