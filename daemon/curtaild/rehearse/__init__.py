"""A site's own file against an emulated plant in virtual time: the very `core.cycle.step` of the daemon, fed at the
poller's rhythm, judged by the plant's truth. No sockets, no clock, no chance without a seed.

Read in this order: play (what the grid will say), signals and days (plays made by code), playfile (plays from files) ·
emulated (the plant), troubles (what goes wrong in it) · shell (polls and commands in virtual time), run, trace · score,
losses, optimum (what it came to) · summary, chart, page (what is shown of it).
"""
