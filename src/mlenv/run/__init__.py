"""Locked environments to running processes: materialised on this machine, or in a container."""
