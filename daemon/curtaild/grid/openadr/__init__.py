"""OpenADR 3.1 (docs/grid/openadr.md): this site is a VEN. It reads events from a VTN, hears hints by MQTT, reports."""

from curtaild.grid.openadr.connection import OpenAdrConnection, Polling
from curtaild.grid.openadr.dialect import OpenAdrDialect, Rules, Snapshot
from curtaild.grid.openadr.plan import Meaning
from curtaild.grid.openadr.vtn import VtnAccess

__all__ = ["Meaning", "OpenAdrConnection", "OpenAdrDialect", "Polling", "Rules", "Snapshot", "VtnAccess"]
