"""GPU nodes: devices with GPUs inside, held by a power limit."""
