"""Where things are kept: SQL rows and OCI blobs."""
