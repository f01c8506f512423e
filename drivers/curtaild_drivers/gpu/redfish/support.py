"""What the driver can do behind each make's BMC, and how far that is proven, for docs/hardware.md."""

from __future__ import annotations

from curtaild_drivers.maturity import Maturity, Support

_PROVEN = (
    "the contract suite and some forty faults on an emulated node over real TLS (`tests/gpu_redfish`); no independent "
    "client has checked that emulator's power limits: none that is open writes them"
)
_OFF = "GracefulShutdown, ForceOff after its time: each only where the site opted in"
_PORTS = "443, or `port`"
_WATTS = "yes, the whole node's"
_DSP0266 = "DMTF DSP0266, DSP2046"


def _row(
    firmware: str, device: str, throttled_by: str, auth: str, quirks: tuple[str, ...], sources: tuple[str, ...]
) -> Support:
    return Support(
        firmware=firmware,
        device=device,
        maturity=Maturity.EMULATED,
        proven=_PROVEN,
        reads_watts=_WATTS,
        throttled_by=throttled_by,
        stopped_by=_OFF,
        auth=auth,
        ports=_PORTS,
        quirks=quirks,
        sources=(*sources, _DSP0266),
    )


SUPPORT = (
    _row(
        "hgx",
        "NVIDIA HGX and DGX, where each GPU has an EnvironmentMetrics",
        "each GPU's PowerLimitWatts",
        "an account that may configure the BMC",
        (
            "The GPUs' resources are gone, or answer 500, while the node is off: it starts without a limit, and the "
            "readings tell which one it keeps.",
            "DGX H100 and B200 also have a Node Manager with domains of its own, which is not used.",
        ),
        ("NVIDIA's Domain Power Service guide",),
    ),
    _row(
        "idrac",
        "Dell iDRAC 9",
        "Power: LimitInWatts",
        "Login and Configure",
        ("It takes whole watts only.", "It does not say its least and most: least_w and rated_w do."),
        ("Dell's iDRAC9 Redfish API guide",),
    ),
    _row(
        "ilo",
        "HPE iLO 5 and 6",
        "Power: LimitInWatts",
        "Configure iLO Settings; a licence for power capping",
        ("It says yes with an `error` that reports success.", "It does not say its least and most."),
        ("HPE's iLO RESTful API reference",),
    ),
    _row(
        "xcc",
        "Lenovo XCC2 and XCC3",
        "Controls/PowerLimit",
        "an account that may configure the BMC; XCC2 Platinum or XCC3 Premier",
        (
            "SetPoint and ControlMode must agree, or it refuses both.",
            "It says 0 W for its least: half of its most is assumed.",
        ),
        ("Lenovo's XCC2 and XCC3 REST API references",),
    ),
    _row(
        "cray",
        "HPE Cray EX",
        "Controls/NodePowerLimit",
        "an account that may configure the node controller",
        (
            "0 W there is no limit.",
            "The controls appear only once the node has been powered on.",
            "The processors get what the node's limit leaves beside the accelerators' own, which are left alone.",
        ),
        ("Cray's docs-csm",),
    ),
    _row(
        "openbmc",
        "OpenBMC",
        "the chassis' EnvironmentMetrics: PowerLimitWatts",
        "the Administrator role",
        ("While its ControlMode is Disabled its SetPoint only waits, and may lie under its own least.",),
        ("bmcweb",),
    ),
    _row(
        "power",
        "other BMCs that have a Power resource (AMI, Supermicro, Gigabyte)",
        "Power: LimitInWatts",
        "an account that may configure the BMC",
        ("Gigabyte keeps a limit only once its LimitTrigger has been activated, by hand.",),
        ("Cray's docs-csm",),
    ),
)
