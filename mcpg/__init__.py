"""The open control plane for MCPG gateways. Read ARCHITECTURE.md, then mcpg/machines/provision.py."""

__version__ = "0.1.0"
