"""The figures of a benchmark as a table in Markdown, and as ratios."""

from collections.abc import Sequence
from typing import Protocol

from benchmarks.measure import median

_COLUMNS = (
    ("cold s", "cold_seconds", 1),
    ("+ push", "cold_push_seconds", 1),
    ("changed s", "changed_seconds", 1),
    ("+ push", "changed_push_seconds", 1),
    ("nothing s", "nothing_seconds", 1),
    ("written MB, cold", "cold_written", 1e6),
    ("sent MB, cold", "cold_sent", 1e6),
    ("sent MB, changed", "changed_sent", 1e6),
    ("largest process MB", "cold_largest_process", 1e6),
    ("all processes MB", "cold_all_processes", 1e6),
    ("pull s", "cold_pull_seconds", 1),
    ("pull changed s", "changed_pull_seconds", 1),
    ("first import s", "import_seconds", 1),
)


class Figures(Protocol):
    """What a row is made of."""

    name: str
    bytecode: bool
    figures: dict[str, list[float]]
    digests: list[str]


def print_table(results: Sequence[Figures]) -> None:
    """Print every contender's medians, then how many times longer each peer took than ours."""
    print("| | bytecode | " + " | ".join(title for title, _, _ in _COLUMNS) + " | same digest |")
    print("|---" * (len(_COLUMNS) + 3) + "|")
    for each in results:
        cells = [_cell(each.figures.get(figure), unit) for _, figure, unit in _COLUMNS]
        agree = "-" if len(each.digests) < 2 else "yes" if len(set(each.digests)) == 1 else "no"
        print(f"| {each.name} | {'yes' if each.bytecode else 'no'} | " + " | ".join(cells) + f" | {agree} |")
    ours = [each for each in results if each.name.startswith("mlenv")]
    peers = [each for each in results if not each.name.startswith("mlenv")]
    for mine in ours:
        for peer in (each for each in peers if each.bytecode == mine.bytecode):
            ratios = ", ".join(
                f"{step} {median(peer.figures[figure]) / median(mine.figures[figure]):.1f} times"
                for step, figure in (("cold", "cold_seconds"), ("changed", "changed_seconds"))
            )
            print(f"{mine.name} against {peer.name}, bytecode {'yes' if mine.bytecode else 'no'}: {ratios}")


def _cell(values: list[float] | None, unit: float) -> str:
    if not values:
        return "-"
    value = median(values) / unit
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
