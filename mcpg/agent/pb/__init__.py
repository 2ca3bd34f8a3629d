"""Generated from protos/mcpg/cp/v1/agent.proto by `make proto`; never edited by hand."""
