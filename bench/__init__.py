"""Benchmarks: one module a section, each with `prepare(options, allowance)` -> plan.Plan."""
