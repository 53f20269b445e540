"""Certificates for servers on loopback, signed by an authority of the test's own, by openssl."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pulsetrain_local.ports import HOST


@dataclass(frozen=True, slots=True)
class Certificates:
    """`authority` is the certificate that clients trust, `server` a server's key and certificate in one file."""

    authority: Path
    server: Path


def certificates(directory: Path) -> Certificates:
    """New ones, good for a day. Skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here: no certificate can be made")
    directory.mkdir(parents=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new, "-days", "1", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *new, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.request")
    (directory / "names").write_text(f"subjectAltName=IP:{HOST}\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.request", *signed, "-out", "server.crt")
    server = directory / "server.pem"
    server.write_text((directory / "server.key").read_text() + (directory / "server.crt").read_text())
    return Certificates(directory / "ca.pem", server)
