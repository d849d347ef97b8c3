"""How packages are grouped into layers."""

from mlenv.core.digest import Digest
from mlenv.core.layer import BUCKETS, HEAVY, HEAVY_LIMIT, plan_layers
from mlenv.core.lock import Artifact, LockedPackage


def package(name: str, size: int) -> LockedPackage:
    return LockedPackage(name, "1", Artifact(f"{name}-1-py3-none-any.whl", size, Digest.of(name.encode()), None))


def names(packages: list[LockedPackage]) -> list[list[str]]:
    return [[each.name for each in plan.packages] for plan in plan_layers(packages)]


def test_heavy_wheels_are_alone_and_lie_below_the_others() -> None:
    assert names([package("tiny", 1), package("zeta", HEAVY), package("alpha", HEAVY + 1)]) == [
        ["alpha"],
        ["zeta"],
        ["tiny"],
    ]


def test_the_size_decides_among_which_others_a_wheel_is() -> None:
    above = HEAVY
    for least, _ in BUCKETS[:-1]:
        # One name, so that nothing but the size parts them.
        assert len(names([package("same", least - 1), package("same", least), package("same", above - 1)])) == 2
        above = least


def test_a_thousand_packages_make_no_more_layers_than_buckets() -> None:
    packages = [package(f"of-{least}-{number}", least + 10) for least, _ in BUCKETS for number in range(300)]
    plans = plan_layers(packages)
    assert len(plans) == sum(count for _, count in BUCKETS)
    assert sorted(each.name for plan in plans for each in plan.packages) == sorted(each.name for each in packages)


def test_too_many_heavy_wheels_share_layers_too() -> None:
    few = [package(f"heavy{number}", HEAVY) for number in range(HEAVY_LIMIT)]
    assert len(plan_layers(few)) == HEAVY_LIMIT
    many = [package(f"heavy{number}", HEAVY) for number in range(10 * HEAVY_LIMIT)]
    assert len(plan_layers(many)) <= HEAVY_LIMIT
    assert sum(len(plan.packages) for plan in plan_layers(many)) == 10 * HEAVY_LIMIT
