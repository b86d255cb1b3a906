"""What anyone can rerun; the figures are in docs/benchmarks.md."""
