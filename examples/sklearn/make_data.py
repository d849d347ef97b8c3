"""Write `data/machines.csv`, the invented readings that `train.py` learns from. The same bytes every time."""

import csv
import random
from pathlib import Path

ROWS = 1000
COLUMNS = ("temperature_c", "vibration_mm_s", "pressure_bar", "age_days", "failed")


def rows() -> list[tuple[str, ...]]:
    """Readings of machines, and whether each failed within a week: more often hot, shaking and old ones."""
    source = random.Random(20200101)
    result = []
    for _ in range(ROWS):
        temperature, vibration = source.gauss(65, 8), abs(source.gauss(2.5, 1.2))
        pressure, age = source.gauss(6.0, 0.4), source.uniform(0, 3000)
        risk = (temperature - 65) / 8 + (vibration - 2.5) / 1.2 + age / 1500 - 1.6 + source.gauss(0, 0.5)
        numbers = (f"{temperature:.1f}", f"{vibration:.2f}", f"{pressure:.2f}", f"{age:.0f}")
        result.append((*numbers, "1" if risk > 0 else "0"))
    return result


if __name__ == "__main__":
    with (Path(__file__).parent / "data" / "machines.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows())
