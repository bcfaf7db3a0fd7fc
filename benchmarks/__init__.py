"""Benchmarks: each beside a named peer in the same run; figures are ratios before they are numbers."""
