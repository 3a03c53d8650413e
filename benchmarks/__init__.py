"""The benchmark harness: real architectures, honest baselines, and a row for every number."""
