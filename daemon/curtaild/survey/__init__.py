"""Meeting devices before the daemon does: finding them on the network, and trying one out."""
