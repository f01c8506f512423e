"""The native dialect `curtaild/v1`: allocations in watts, schedules, heartbeats; every allocation is answered."""

from curtaild.grid.native.decode import decode
from curtaild.grid.native.dialect import NativeDialect
from curtaild.grid.native.encode import (
    GridAllocation,
    encode_ack,
    encode_allocation,
    encode_breach,
    encode_heartbeat,
    encode_last_will,
    encode_schedule,
    encode_status,
    encode_stopped,
)
from curtaild.grid.native.topics import Context, Topics

__all__ = [
    "Context",
    "GridAllocation",
    "NativeDialect",
    "Topics",
    "decode",
    "encode_ack",
    "encode_allocation",
    "encode_breach",
    "encode_heartbeat",
    "encode_last_will",
    "encode_schedule",
    "encode_status",
    "encode_stopped",
]
