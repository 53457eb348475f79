"""TLS files that cannot be used are one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.helpers.certificate import make_certificate

from llamagen_server.serving.tls import Tls


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), password="right")


def message(tls: Tls) -> str:
    with pytest.raises(ValueError, match="--ssl-") as error:
        tls.check()
    assert "\n" not in str(error.value)
    assert "wr0ng" not in str(error.value)
    return str(error.value)


def test_good_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    certfile, keyfile = files
    Tls(certfile, keyfile, "right").check()
    Tls(certfile, keyfile, "right", ca_certs=certfile, cert_reqs=2).check()
    both = tmp_path / "both.pem"
    both.write_bytes(certfile.read_bytes() + keyfile.read_bytes())
    Tls(both, keyfile_password="right").check()


def test_wrong_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    certfile, keyfile = files
    missing, text = tmp_path / "missing", tmp_path / "text"
    text.write_text("no certificate")
    assert message(Tls(missing)) == f"--ssl-certfile {missing}: No such file or directory"
    assert message(Tls(certfile, missing)) == f"--ssl-keyfile {missing}: No such file or directory"
    assert message(Tls(certfile, keyfile, "right", missing, 2)).startswith(f"--ssl-ca-certs {missing}: No such")
    assert message(Tls(tmp_path)) == f"--ssl-certfile {tmp_path}: Is a directory"
    unusable = f"--ssl-certfile {certfile} and --ssl-keyfile {keyfile}: not a certificate with its private key"
    for password in (None, "", "wr0ng"):
        assert message(Tls(certfile, keyfile, password)).startswith(unusable)
    assert "--ssl-keyfile" not in message(Tls(certfile)).partition("--ssl-keyfile-password")[0]
    assert message(Tls(text, keyfile, "right")).startswith(f"--ssl-certfile {text}")
    assert message(Tls(certfile, keyfile, "right", text, 2)).startswith(f"--ssl-ca-certs {text}: no certificates")


def test_a_key_of_another_certificate(files: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copy(files[0], tmp_path / "other.pem")
    _, other_key = make_certificate(tmp_path)
    assert "not a certificate with its private key" in message(Tls(tmp_path / "other.pem", other_key))


def test_flags_that_need_each_other(files: tuple[Path, Path]) -> None:
    certfile, keyfile = files
    assert "give --ssl-ca-certs" in message(Tls(certfile, keyfile, "right", cert_reqs=2))
    assert "no effect without --ssl-cert-reqs" in message(Tls(certfile, keyfile, "right", ca_certs=certfile))
