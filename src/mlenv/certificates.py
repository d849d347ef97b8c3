"""Which certificate authorities are trusted: the machine's, or Mozilla's where the machine has none of its own."""

import ssl


def trusting_context() -> ssl.SSLContext:
    """
    A context for connections, with `SSL_CERT_FILE` and `SSL_CERT_DIR` honoured (OpenSSL, SSL_CTX_load_verify_locations).

    Python from python.org has no authorities on macOS until a script of its installer is run: certifi has them.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None and not context.get_ca_certs():
        import certifi

        context.load_verify_locations(certifi.where())
    return context
