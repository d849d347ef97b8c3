"""
Learn which machines will fail, from the readings in `data/machines.csv`.

Nothing here knows of mlenv: it is a training script as it would be run anywhere.
"""

import argparse
import csv
from pathlib import Path

import joblib
import sklearn
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DATA = Path(__file__).parent / "data" / "machines.csv"


def read(path: Path) -> tuple[list[list[float]], list[int]]:
    """The readings, and whether each machine failed."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [[float(value) for value in row[:-1]] for row in rows], [int(row[-1]) for row in rows]


def main() -> None:
    """Train for some epochs, say how well it went, and save the model."""
    parser = argparse.ArgumentParser(description="Learn which machines will fail.")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the data (default 10)")
    parser.add_argument("--data", type=Path, default=DATA, help="a CSV file of readings")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="where the model goes (default ./outputs)")
    arguments = parser.parse_args()

    readings, failed = read(arguments.data)
    train_x, test_x, train_y, test_y = train_test_split(readings, failed, test_size=0.25, random_state=0)
    scaler = StandardScaler().fit(train_x)
    classifier = SGDClassifier(loss="log_loss", random_state=0)
    for epoch in range(1, arguments.epochs + 1):
        classifier.partial_fit(scaler.transform(train_x), train_y, classes=[0, 1])
        accuracy = classifier.score(scaler.transform(test_x), test_y)
        print(f"epoch {epoch}: accuracy {accuracy:.3f}", flush=True)

    arguments.output.mkdir(parents=True, exist_ok=True)
    model = arguments.output / "model.joblib"
    joblib.dump(make_pipeline(scaler, classifier), model)
    print(f"scikit-learn {sklearn.__version__}: model saved to {model}")


if __name__ == "__main__":
    main()
