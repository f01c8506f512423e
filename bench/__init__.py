"""The benchmarks: each bar beside its floor or its peer, measured in the same run. `python -m bench --help`."""
