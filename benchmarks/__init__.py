"""Benchmarks: everything in one run side by side, ratios first, for seconds on a shared machine say little."""
