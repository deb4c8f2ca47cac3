"""Certificates for tests, made by the ``openssl`` command when they are needed."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

OPENSSL = shutil.which("openssl")
_CONFIG = """
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = CA:false
subjectAltName = IP:127.0.0.1, IP:::1, DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass
class Certificates:
    """PEM files: a root, a server's certificate of it and a client's, a root of others.

    ``locked_key`` is the server's key with a passphrase.
    """

    root: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    other_root: Path
    locked_key: Path


def make_certificates(folder):
    """Make them in a folder; they are valid for a day."""
    config = folder / "openssl.cnf"
    config.write_text(_CONFIG)

    def openssl(*arguments):
        subprocess.run([OPENSSL, *map(str, arguments)], check=True, capture_output=True, timeout=60)

    def signed(name, extensions, *by):
        key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key)
        about = ("-subj", f"/CN={name}", "-days", "1", "-config", config, "-extensions", extensions)
        openssl("req", "-x509", *new_key, "-out", certificate, *about, *by)
        return certificate, key

    root, root_key = signed("root", "root")
    other_root, _ = signed("other-root", "root")
    by_root = ("-CA", root, "-CAkey", root_key)
    server, server_key = signed("server", "leaf", *by_root)
    client, client_key = signed("client", "leaf", *by_root)
    locked_key = folder / "locked.key"
    openssl("pkey", "-in", server_key, "-aes128", "-passout", "pass:test", "-out", locked_key)
    return Certificates(root, server, server_key, client, client_key, other_root, locked_key)
