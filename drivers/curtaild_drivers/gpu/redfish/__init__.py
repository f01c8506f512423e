"""GPU nodes by their BMC over Redfish: node watts, a power limit in what way each make takes it, graceful and forced
off where the site opted in. Written from DSP0266 and the makers' references; see `profiles.PROFILES`.
"""

from curtaild_drivers.gpu.redfish.device import RedfishNode, open_device
from curtaild_drivers.gpu.redfish.settings import RedfishSettings
from curtaild_drivers.gpu.redfish.support import SUPPORT
from curtaild_drivers.registry import Driver

DRIVER = Driver(name="redfish", settings=RedfishSettings, open_device=open_device, support=SUPPORT)

__all__ = ["DRIVER", "RedfishNode", "RedfishSettings"]
