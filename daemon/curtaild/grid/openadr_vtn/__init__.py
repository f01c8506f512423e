"""An emulated VTN, the server of OpenADR 3.1: the operator's side, for commissioning, rehearsals and tests.

Written from the OpenAPI definition, the Definitions and the User Guide of OpenADR 3.1.0; it knows nothing of the VEN.
"""

from curtaild.grid.openadr_vtn.notices import MqttNotifier
from curtaild.grid.openadr_vtn.objects import OadrObject
from curtaild.grid.openadr_vtn.problems import problem
from curtaild.grid.openadr_vtn.server import BASE_PATH, Vtn
from curtaild.grid.openadr_vtn.tokens import Client, Role

__all__ = ["BASE_PATH", "Client", "MqttNotifier", "OadrObject", "Role", "Vtn", "problem"]
