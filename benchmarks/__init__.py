"""Benchmarks, one module each: `python -m benchmarks` lists them, README.md beside this file explains."""
