"""The SDK: a server's workspaces and registries from Python."""
