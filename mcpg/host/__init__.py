"""This machine: its processes, its loopback ports, and the gateway program on it. Knows no store, no engine, no protocol."""
