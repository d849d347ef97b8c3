"""The OCI distribution specification 1.1 at `/v2/`: images pulled and pushed with the tools people have."""
