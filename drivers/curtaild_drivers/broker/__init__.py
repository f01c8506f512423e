"""An MQTT connection as the daemon's grid link and the downstream driver use it, and what has arrived by it."""
