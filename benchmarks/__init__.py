"""What the control plane costs, measured: one command a benchmark, `python -m benchmarks` for all. See README.md."""
