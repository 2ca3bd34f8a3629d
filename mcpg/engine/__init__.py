"""Decides what happens next. Sees the outside only through ports.py; never imports a provisioner, the API or the CLI."""
