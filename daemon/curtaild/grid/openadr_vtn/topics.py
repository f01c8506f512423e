"""The MQTT topics of the notifier binding: what a client is told, and where each change is published.

The names follow the examples of the specification behind a prefix of this VTN's own; a VEN has to ask for them all the
same.
"""

from __future__ import annotations

from collections.abc import Iterator

from curtaild.grid.openadr_vtn.objects import OadrObject, Objects

OPERATIONS = ("CREATE", "UPDATE", "DELETE")
_PLURAL = {
    "PROGRAM": "programs",
    "EVENT": "events",
    "REPORT": "reports",
    "SUBSCRIPTION": "subscriptions",
    "VEN": "vens",
    "RESOURCE": "resources",
}


class Topics:
    """Without `offers_all` no topic for all operations at once is told, which a VTN may leave out."""

    def __init__(self, prefix: str, *, offers_all: bool = True) -> None:
        self._prefix = prefix.strip("/")
        self._offers_all = offers_all

    def of(self, path: str, operations: tuple[str, ...] = OPERATIONS) -> dict[str, dict[str, str]]:
        """The answer to a topic request (`notifierTopicsResponse`) for `path`, say `events/programs/44`."""
        topics = {operation: f"{self._prefix}/{path}/{operation.lower()}" for operation in operations}
        if self._offers_all:
            topics["ALL"] = f"{self._prefix}/{path}/+"
        return {"topics": topics}

    def told(self, operation: str, subject: OadrObject, objects: Objects) -> Iterator[str]:
        """Where to say that this happened. What carries targets goes to the topics of the vens that hold one of them,
        and to those that are the business logic's alone; the topics that any VEN may ask for stay without it."""
        kind, object_id = subject["objectType"], subject["id"]
        targets = subject.get("targets") or ()
        plural = _PLURAL[kind]
        paths = [] if kind == "PROGRAM" and targets else [plural]
        if kind == "VEN":
            paths.append(f"vens/{object_id}")
        elif kind == "RESOURCE":
            paths.append(f"resources/vens/{subject['venID']}")
        elif kind in ("PROGRAM", "EVENT"):
            paths += [f"{plural}/vens/{ven_id}" for ven_id in objects.vens_that_see(targets)]
            if not targets:
                paths.append(
                    f"programs/{object_id}" if kind == "PROGRAM" else f"events/programs/{subject['programID']}"
                )
        for path in paths:
            yield f"{self._prefix}/{path}/{operation.lower()}"
