"""How the BMCs of each make take a limit: the one table of what differs. Sources: their makers' Redfish references,
OpenBMC's bmcweb, NVIDIA's Domain Power Service, Cray's docs-csm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from curtaild_drivers.gpu.redfish.document import Json, part, text
from curtaild_drivers.gpu.redfish.limits import Shape
from curtaild_drivers.gpu.redfish.settings import ProfileName


@dataclass(frozen=True, slots=True)
class Profile:
    """`shape` is where the limit stands, `mode` the control mode written beside it, `lifted` what is written to lift
    it (`None`: its most is written instead). `of_gpus`: each GPU has its own, on the baseboard's system.
    `keeps_while_off`: a limit can be set while the node is off. `control` is what the node's Control is called."""

    name: ProfileName
    title: str
    shape: Shape
    mode: str | None
    lifted: Json | None
    of_gpus: bool = False
    keeps_while_off: bool = True
    control: str = ""


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("hgx", "NVIDIA HGX, DGX", Shape.ENVIRONMENT, None, None, of_gpus=True, keeps_while_off=False),
        Profile("idrac", "Dell iDRAC", Shape.POWER, None, {"PowerControl": [{"PowerLimit": {"LimitInWatts": None}}]}),
        Profile("ilo", "HPE iLO", Shape.POWER, None, {"PowerControl": [{"PowerLimit": {"LimitInWatts": None}}]}),
        Profile(
            "power", "others, by Power", Shape.POWER, None, {"PowerControl": [{"PowerLimit": {"LimitInWatts": None}}]}
        ),
        Profile(
            "xcc",
            "Lenovo XCC",
            Shape.CONTROL,
            "Manual",
            {"SetPoint": None, "ControlMode": "Disabled"},
            control="PowerLimit",
        ),
        Profile(
            "cray",
            "HPE Cray",
            Shape.CONTROL,
            "Automatic",
            {"ControlMode": "Disabled"},
            keeps_while_off=False,
            control="NodePowerLimit",
        ),
        Profile("openbmc", "OpenBMC", Shape.ENVIRONMENT, "Automatic", {"PowerLimitWatts": {"ControlMode": "Disabled"}}),
    )
}

_BASEBOARD = re.compile(r"HGX_Baseboard", re.IGNORECASE)
_GPU = re.compile(r"GPU", re.IGNORECASE)
_WORDS: tuple[tuple[str, ProfileName], ...] = (
    ("cray", "cray"),
    ("dell", "idrac"),
    ("idrac", "idrac"),
    ("lenovo", "xcc"),
    ("xclarity", "xcc"),
    ("openbmc", "openbmc"),
    ("hpe", "ilo"),
    ("hp", "ilo"),
    ("hewlett", "ilo"),
    ("ilo", "ilo"),
)


def is_baseboard(system: str) -> bool:
    """Whether a system is a baseboard of GPUs rather than a node."""
    return _BASEBOARD.search(system) is not None


def is_gpu(processor: str) -> bool:
    """Whether a processor's id is a GPU's (GPU_SXM_1, GPU_0)."""
    return _GPU.search(processor) is not None


def recognised(root: Json, systems: Iterable[str], documents: Iterable[Json]) -> Profile | None:
    """The make, by the service root, the systems' ids, and what managers, systems and chassis say of themselves."""
    if any(is_baseboard(system) for system in systems):
        return PROFILES["hgx"]
    said = [text(root.get("Vendor")), text(root.get("Product")), *part(root, "Oem")]
    for document in documents:
        said += [text(document.get(key)) for key in ("Manufacturer", "Model", "Name", "Description")]
    spoken = [re.findall(r"[a-z]+", word.lower()) for word in said]
    for word, name in _WORDS:
        if any(word in each for each in spoken):
            return PROFILES[name]
    return None
