"""Measurements of mlenv beside what people use today. `python -m benchmarks build`, `python -m benchmarks start`."""
