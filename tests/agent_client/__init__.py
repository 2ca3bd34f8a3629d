"""The agent side of mcpg.cp.v1: our own gateway against a control plane that is real gRPC and a few dozen lines."""
