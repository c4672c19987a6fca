"""What a CA consists of, and the steps of a root rotation as pure functions from one state to the
next.

    stable ──prepare──> prepared ──switch──> switched ──finish──> stable
    trusts  old          old, new             old, new             new
    signs   old          old                  new                  new

Invariants: in every state the signer's root is among the roots that are trusted; between two
neighbouring states every leaf of the one is trusted in the other. `generation` grows with every
step, so that an old copy is known as old.
"""

from __future__ import annotations

import datetime
import json
import secrets
from dataclasses import dataclass, replace
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dockermesh.ca.certificates import (
    ROOT_LIFETIME,
    AuthorityError,
    Signer,
    key_pem,
    new_root,
    pem_of,
)
from dockermesh.errors import UsageError


class Phase(StrEnum):
    """How far a root rotation is."""

    STABLE = "stable"
    PREPARED = "prepared"
    SWITCHED = "switched"


class Step(StrEnum):
    """The steps of a root rotation, in order."""

    PREPARE = "prepare"
    SWITCH = "switch"
    FINISH = "finish"


NEXT: dict[Phase, Step] = {
    Phase.STABLE: Step.PREPARE,
    Phase.PREPARED: Step.SWITCH,
    Phase.SWITCHED: Step.FINISH,
}


@dataclass(frozen=True, slots=True)
class Material:
    """The signer and the trusted roots, the signer's own first.

    `mesh` is random and stays the same for ever: it tells this mesh's CA from another's. `coming`
    is the root that a prepared rotation will sign with. `is_own`: made by us; otherwise the user's,
    whose files say what is trusted.
    """

    mesh: str
    generation: int
    phase: Phase
    since: datetime.datetime
    signer: Signer
    roots: tuple[x509.Certificate, ...]
    coming: Signer | None = None
    is_own: bool = True

    @property
    def roots_pem(self) -> bytes:
        """All trusted roots. Not a secret."""
        return b"".join(map(pem_of, self.roots))


def new_material(
    trust_domain: str,
    now: datetime.datetime,
    lifetime: datetime.timedelta = ROOT_LIFETIME,
) -> Material:
    """A new mesh's CA."""
    signer = new_root(trust_domain, now, lifetime)
    return Material(
        secrets.token_hex(8), 1, Phase.STABLE, now, signer, (signer.certificate,)
    )


def advance(
    material: Material, step: Step, trust_domain: str, now: datetime.datetime
) -> Material:
    """The state after a step.

    Raises UsageError when it is not this step's turn.
    """
    if NEXT[material.phase] is not step:
        raise UsageError(
            f"the root rotation is {material.phase}: the next step is {NEXT[material.phase]}, not"
            f" {step}",
            fix=(
                f"run `dockermesh ca rotate --step {NEXT[material.phase]}`, or without --step for"
                " all that are left"
            ),
        )

    after = replace(material, generation=material.generation + 1, since=now)
    if step is Step.PREPARE:
        # Trusted by all before anything is signed with it.
        coming = new_root(trust_domain, now)
        return replace(
            after,
            phase=Phase.PREPARED,
            coming=coming,
            roots=(*material.roots, coming.certificate),
        )

    if step is Step.SWITCH:
        if material.coming is None:
            raise AuthorityError(
                "the rotation was prepared without a new root",
                fix="restore the CA from a backup",
            )
        # Still trusted: leaves of the old root are good until each was replaced.
        old = tuple(
            root for root in material.roots if root != material.coming.certificate
        )
        roots = (material.coming.certificate, *old)
        return replace(
            after,
            phase=Phase.SWITCHED,
            signer=material.coming,
            coming=None,
            roots=roots,
        )

    # Whether leaves of the old root are left is for the caller to know: none would be taken now.
    return replace(after, phase=Phase.STABLE, roots=(material.signer.certificate,))


def to_json(material: Material) -> bytes:
    """The material with its keys, to be sealed before it is written anywhere."""
    return json.dumps(
        {
            "mesh": material.mesh,
            "generation": material.generation,
            "phase": material.phase,
            "since": material.since.isoformat(),
            "signer": _signer_json(material.signer),
            "coming": _signer_json(material.coming)
            if material.coming is not None
            else None,
            "roots": material.roots_pem.decode(),
        }
    ).encode()


def from_json(text: bytes) -> Material:
    """The material written by `to_json`.

    Raises ValueError, KeyError or TypeError when it is none.
    """
    data = json.loads(text)
    signer = _signer(data["signer"])
    roots = tuple(x509.load_pem_x509_certificates(data["roots"].encode()))
    # What it signs would be refused by every proxy.
    if signer.certificate not in roots:
        raise ValueError("the signer's root is not among the roots")

    return Material(
        mesh=str(data["mesh"]),
        generation=int(data["generation"]),
        phase=Phase(data["phase"]),
        since=datetime.datetime.fromisoformat(data["since"]),
        signer=signer,
        roots=roots,
        coming=_signer(data["coming"]) if data["coming"] is not None else None,
    )


def _signer_json(signer: Signer) -> dict[str, str]:
    return {
        "key": key_pem(signer.key).decode(),
        "certificate": pem_of(signer.certificate).decode(),
    }


def _signer(data: dict[str, str]) -> Signer:
    key = serialization.load_pem_private_key(data["key"].encode(), password=None)
    certificate = x509.load_pem_x509_certificate(data["certificate"].encode())
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the key is neither EC nor RSA")
    if key.public_key() != certificate.public_key():
        raise ValueError("the key does not belong to its certificate")
    return Signer(key, certificate)
