"""The BMCs of GPU nodes: Redfish over HTTPS, as each maker speaks it (DMTF DSP0266 and the makers' guides)."""
