"""RequestAuthentication: which JSON Web Tokens are valid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from dockermesh.config.api.common import LabelSelector, PolicyTargetReference
from dockermesh.config.fields import REQUIRED, Duration, Length, NonEmpty, Pattern


@dataclass(frozen=True, slots=True)
class JWTHeader:
    """A header that may carry the token, after `prefix`."""

    name: NonEmpty = field(default="", metadata=REQUIRED)
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class ClaimToHeader:
    """A claim that is copied to a header."""

    header: Annotated[
        str, Length(low=1), Pattern(r"^[-_A-Za-z0-9]+$", "a header name")
    ] = field(default="", metadata=REQUIRED)
    claim: NonEmpty = field(default="", metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class JWTRule:
    """One issuer, its keys and where its tokens are found."""

    issuer: str = ""
    audiences: tuple[NonEmpty, ...] = ()
    # Empty, together with `jwks`: found by OpenID discovery at the issuer.
    jwks_uri: Annotated[str, Length(high=2048)] = ""
    jwks: str = ""
    # Without a place, `Authorization: Bearer` and the parameter access_token are looked at.
    from_headers: tuple[JWTHeader, ...] = ()
    from_params: tuple[NonEmpty, ...] = ()
    from_cookies: tuple[NonEmpty, ...] = ()
    output_payload_to_header: str = ""
    # The app does not get the token unless this is set.
    forward_original_token: bool = False
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    timeout: Duration | None = None
    # `scope` and `permission` are split in any case.
    space_delimited_claims: Annotated[tuple[NonEmpty, ...], Length(high=64)] = ()


@dataclass(frozen=True, slots=True)
class RequestAuthentication:
    """Token rules for the selected workloads (None: all of the namespace)."""

    ONEOFS: ClassVar = (("selector", "target_ref", "target_refs"),)
    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Length(high=16)] = ()
    jwt_rules: Annotated[tuple[JWTRule, ...], Length(high=4096)] = ()
