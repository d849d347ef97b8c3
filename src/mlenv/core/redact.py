"""Credentials in URLs (RFC 3986, section 3.2.1, and signed query strings): finding them, and not showing them."""

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

#: `user:password@` or `token@` after the scheme. A password with a `/` in it, which RFC 3986 has no room for, too.
#: Every length is bounded, so that hostile text can't make the search slow.
_USERINFO: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,30})://(?P<user>[^\s/?#\"'<>]{0,2000}|[^\s/@:]{1,255}:(?!\d+[/?#])[^\s@]{0,128})@",
    re.IGNORECASE,
)
#: Query parameters by which storage services and proxies sign or authenticate an address.
_SIGNED: Final = re.compile(
    r"(?P<name>[?&;](?:sig|signature|token|access_token|auth|password|api[_-]?key|x-amz-(?:signature|security-token)"
    r"|x-goog-signature)=)(?P<value>[^&#;\s\"'<>`]+)",
    re.IGNORECASE,
)
#: The token that conda channels take as a piece of the path: `https://host/t/TOKEN/channel`.
_CONDA_TOKEN: Final = re.compile(r"(?P<before>://[^\s/]{1,255}/t/)(?P<token>[^\s/]{1,512})(?=/)")
_ERRNO: Final = re.compile(r"\[Errno -?\d+\] ")
_VARIABLE: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
#: Schemes whose user name is an account, not a secret: `ssh://git@host/…`.
_ACCOUNT_ONLY: Final = ("ssh", "git+ssh", "svn+ssh", "hg+ssh", "bzr+ssh", "bzr+sftp", "sftp")


def _is_secret(match: re.Match[str]) -> bool:
    """Whether user information holds a literal secret: the password, or the user name where there is no password."""
    user, _, password = match["user"].partition(":")
    if not password and match["scheme"].lower() in _ACCOUNT_ONLY:
        return False
    return bool(_without_variables(password or user))


def _without_variables(text: str) -> str:
    return _VARIABLE.sub("", text)


def has_credentials(text: str) -> bool:
    """Whether text holds a URL with a literal credential. `${VARIABLE}` in place of user and password is none."""
    if "://" not in text:
        return False
    signed = (match for match in _SIGNED.finditer(text) if _without_variables(match["value"]))
    conda = (match for match in _CONDA_TOKEN.finditer(text) if _without_variables(match["token"]))
    user = "@" in text and any(map(_is_secret, _USERINFO.finditer(text)))
    return user or any(signed) or any(conda)


def strip_placeholders(text: str) -> str:
    """Take `${USER}:${PASSWORD}@` out of every URL in the text; literal credentials stay, for `has_credentials`."""

    def strip(match: re.Match[str]) -> str:
        placeholder = _VARIABLE.search(match["user"]) and not _is_secret(match)
        return f"{match['scheme']}://" if placeholder else match[0]

    return _USERINFO.sub(strip, text)


def redact(text: str) -> str:
    """The text with every credential in a URL replaced by `****`. For messages; harmless on any text."""
    if "://" not in text:
        return text
    text = _USERINFO.sub(lambda match: f"{match['scheme']}://****@" if _is_secret(match) else match[0], text)
    text = _CONDA_TOKEN.sub(r"\g<before>****", text)
    return _SIGNED.sub(r"\g<name>****", text)


def said(error: BaseException) -> str:
    """What an error says, without credentials and numbers of the operating system; or else what it is."""
    return redact(_ERRNO.sub("", str(error))) or type(error).__name__


def without_credentials(url: str) -> str:
    """An address as it may be kept: without user, password, signature and fragment."""
    parts = urlsplit(url)
    query = _SIGNED.sub("", f"?{parts.query}").lstrip("?&;") if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
