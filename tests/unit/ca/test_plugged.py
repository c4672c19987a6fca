"""A CA that the user brings: Istio's four files, used with their whole chain, or refused with the
reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from certified import NOW, Certified, write
from cryptography import x509

from dockermesh.ca import Authority, AuthorityError
from dockermesh.ca.certificates import signed_by
from dockermesh.ca.plugged import read_plugged
from dockermesh.model import Identity

REVIEWS = Identity("mesh.test", "default", "reviews")


@pytest.fixture(scope="module")
def certified() -> dict[str, Certified]:
    root = Certified("root", rsa_bits=2048)
    middle = Certified("middle", root)
    return {
        "root": root,
        "middle": middle,
        "signer": Certified("signer", middle),
        "other": Certified("other"),
    }


@pytest.fixture
def folder(tmp_path: Path, certified: dict[str, Certified]) -> Path:
    write(
        tmp_path,
        certified["signer"],
        [certified["middle"], certified["root"]],
        [certified["root"]],
    )
    return tmp_path


def test_the_chain_is_served_without_the_root(
    folder: Path, certified: dict[str, Certified]
) -> None:
    authority = Authority(read_plugged(folder, NOW))
    leaf, *chain = x509.load_pem_x509_certificates(
        authority.issue_workload(REVIEWS).certificate
    )
    assert chain == [certified["signer"].certificate, certified["middle"].certificate]
    assert signed_by(leaf, chain[0])
    assert authority.roots_pem == certified["root"].pem


def test_a_root_may_sign_itself_and_then_is_not_served(
    tmp_path: Path, certified: dict[str, Certified]
) -> None:
    write(tmp_path, certified["root"], [], [certified["root"]])
    leaf = Authority(read_plugged(tmp_path, NOW)).issue_workload(REVIEWS)
    [found] = x509.load_pem_x509_certificates(leaf.certificate)
    assert signed_by(found, certified["root"].certificate)


def test_several_roots_are_all_trusted_and_an_expired_one_is_not(
    folder: Path, certified: dict[str, Certified]
) -> None:
    roots = [certified["root"], certified["other"], Certified("old", days=-1)]
    write(folder, certified["signer"], [certified["middle"]], roots)
    assert (
        Authority(read_plugged(folder, NOW)).roots_pem
        == certified["root"].pem + certified["other"].pem
    )


@pytest.mark.parametrize(
    ("signer", "chain", "roots", "reason"),
    [
        ("signer", [], ["root"], "no chain"),
        ("signer", ["middle"], ["other"], "no chain"),
        ("expired", [], ["root"], "valid from"),
        ("leaf", [], ["root"], "no CA"),
        ("weak", [], ["weak"], "2048 bits"),
    ],
)
def test_what_does_not_hold_is_refused(
    tmp_path: Path,
    certified: dict[str, Certified],
    signer: str,
    chain: list[str],
    roots: list[str],
    reason: str,
) -> None:
    root = certified["root"]
    found = certified | {
        "expired": Certified("expired", root, days=-1),
        "leaf": Certified("leaf", root, ca=False),
        "weak": Certified("weak", rsa_bits=1024),
    }
    write(tmp_path, found[signer], [found[c] for c in chain], [found[r] for r in roots])
    with pytest.raises(AuthorityError, match=reason):
        read_plugged(tmp_path, NOW)


@pytest.mark.parametrize("victim", ["ca-cert.pem", "ca-key.pem", "root-cert.pem"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN"])
def test_a_missing_or_damaged_file_is_named(
    folder: Path, victim: str, content: bytes | None
) -> None:
    (folder / victim).unlink()
    if content is not None:
        (folder / victim).write_bytes(content)
        (folder / victim).chmod(0o600)
    with pytest.raises(AuthorityError) as refused:
        read_plugged(folder, NOW)
    assert refused.value.where.endswith(victim)


def test_a_key_of_another_certificate_is_refused(
    folder: Path, certified: dict[str, Certified]
) -> None:
    (folder / "ca-cert.pem").write_bytes(certified["middle"].pem)
    with pytest.raises(AuthorityError, match="does not belong"):
        read_plugged(folder, NOW)


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "ca-key.pem").chmod(0o644)
    with pytest.raises(AuthorityError, match="readable for others"):
        read_plugged(folder, NOW)


def test_a_chain_file_is_not_needed_where_the_root_signed(
    tmp_path: Path, certified: dict[str, Certified]
) -> None:
    write(tmp_path, certified["middle"], [], [certified["root"]])
    (tmp_path / "cert-chain.pem").unlink()
    assert read_plugged(tmp_path, NOW).signer.chain == certified["middle"].pem
