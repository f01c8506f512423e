"""The emulated devices' protocols, one module each, and the listeners that serve thousands of addresses at once."""
