"""TLS of the server's own socket: uvicorn's options, checked before the model is loaded."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tls:
    """Certificate and key of the server, and what it asks of its clients."""

    certfile: Path
    """The certificate, followed by those between it and the root."""
    keyfile: Path | None = None
    """The private key; None: it is in ``certfile``."""
    keyfile_password: str | None = None
    ca_certs: Path | None = None
    """Certificates that sign those of clients."""
    cert_reqs: int = ssl.CERT_NONE
    """Whether clients need a certificate: 0 no, 1 optional, 2 required (constants of the module ssl)."""

    def check(self) -> None:
        """Loads the files as uvicorn will.

        Raises:
            ValueError: a file is missing or unusable, or the key does not fit the certificate.
        """
        self._check_files()
        password = self.keyfile_password or ""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:  # without a password, OpenSSL would ask the terminal for one
            context.load_cert_chain(self.certfile, self.keyfile, lambda: password)
        except OSError as error:
            key = f" and --ssl-keyfile {self.keyfile}" if self.keyfile else ""
            raise ValueError(
                f"--ssl-certfile {self.certfile}{key}: not a certificate with its private key in PEM format, "
                f"or --ssl-keyfile-password is wrong ({_reason(error)})"
            ) from None
        self._check_clients(context)

    def uvicorn_options(self) -> dict[str, Any]:
        """Returns the arguments of ``uvicorn.Config``."""
        return {
            "ssl_certfile": str(self.certfile),
            "ssl_keyfile": str(self.keyfile) if self.keyfile else None,
            "ssl_keyfile_password": self.keyfile_password,
            "ssl_ca_certs": str(self.ca_certs) if self.ca_certs else None,
            "ssl_cert_reqs": self.cert_reqs,
        }

    def _check_files(self) -> None:
        for name in ("certfile", "keyfile", "ca_certs"):
            path: Path | None = getattr(self, name)
            if path is not None:
                try:
                    path.open("rb").close()
                except OSError as error:
                    raise ValueError(f"--ssl-{name.replace('_', '-')} {path}: {error.strerror}") from None

    def _check_clients(self, context: ssl.SSLContext) -> None:
        if self.cert_reqs != ssl.CERT_NONE and self.ca_certs is None:
            raise ValueError("--ssl-cert-reqs asks for certificates of clients: give --ssl-ca-certs")
        if self.cert_reqs == ssl.CERT_NONE and self.ca_certs is not None:
            raise ValueError("--ssl-ca-certs has no effect without --ssl-cert-reqs 1 or 2")
        if self.ca_certs is not None:
            try:
                context.load_verify_locations(self.ca_certs)
            except OSError as error:
                raise ValueError(
                    f"--ssl-ca-certs {self.ca_certs}: no certificates in PEM format ({_reason(error)})"
                ) from None


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
