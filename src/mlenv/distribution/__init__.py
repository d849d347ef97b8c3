"""The client side of the OCI distribution specification 1.1: images from, and to, any registry."""
