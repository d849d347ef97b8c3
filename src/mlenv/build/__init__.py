"""A lock and blobs to an OCI image, without a daemon."""
