"""The demo: an emulated farm, a broker, the daemon and a grid operator who moves the allocation, on this machine alone.

Farm, broker and daemon are processes of their own (`child`); the parent plays the operator (`play`), keeps the farm's
own truth (`trace`), shows it (`plain`, `live`) and judges each step by it (`score`).
"""
