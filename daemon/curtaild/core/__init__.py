"""What the daemon thinks. Pure: no I/O, no asyncio, no logging, no clock; `now` is always an argument.

Read in this order: limits, allocation, link (what may be drawn) · feeders, device, reserve (what is drawn) ·
dispatch (what shall be drawn) · site, cycle (one turn of all of it) · events, status (what is told).
"""
