"""The core's control beside other policies' on the same plant, signals and faults: `python -m bench.policies`."""
