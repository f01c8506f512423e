"""A small site file with words of a person in it."""

SITE = """\
# our farm, north of the river
[site]
name = "tried"

[grid]
brokers = ["mqtt://127.0.0.1:1883"]
failsafe_limit_w = 100_000  # agreed on the phone

[[feeder]]
id = "main"
rating_w = 500_000

[[feeder]]
id = "row-1"   # the shaded one
parent = "main"
rating_w = 250_000

"""
