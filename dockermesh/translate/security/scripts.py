"""Lua where Envoy's own filters have no setting: what policies see of the Host header, that a token
is given once, and that nothing in it is passed over.

Invariant: nothing of a resource gets into a script but as the content of a quoted string.
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

from dockermesh.config.api.request_authentication import JWTRule
from dockermesh.translate.envoy.claims import JWT_FILTER, JWT_HEADER, JWT_PAYLOAD
from dockermesh.translate.envoy.packing import pack

LUA = "envoy.filters.http.lua"
_PORTLESS = """
function envoy_on_request(handle)
  local given = handle:headers():get(":authority")
  if given == nil then return end
  local bare = given:gsub(":%d*$", ""):gsub("%.$", "")
  if bare ~= given then
    handle:streamInfo():dynamicMetadata():set("dockermesh", "authority", given)
    handle:headers():replace(":authority", bare)
  end
end
"""
# Several of these pairs may be in one chain: what one has kept must not be put back by the next.
_AS_GIVEN = """
function envoy_on_request(handle)
  local kept = handle:streamInfo():dynamicMetadata():get("dockermesh")
  if kept ~= nil and kept["authority"] ~= nil and kept["authority"] ~= "" then
    handle:headers():replace(":authority", kept["authority"])
    handle:streamInfo():dynamicMetadata():set("dockermesh", "authority", "")
  end
end
"""
_ONE_TOKEN = """
local function decoded(text)
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function parameters(text, separator, wanted)
  local found = 0
  for name in text:gmatch("([^" .. separator .. "=]+)=[^" .. separator .. "]*") do
    if wanted[decoded(name:gsub("^%s+", ""))] then found = found + 1 end
  end
  return found
end

local function tokens(headers, rule)
  local found = 0
  for _, place in ipairs(rule.headers) do
    for index = 0, headers:getNumValues(place[1]) - 1 do
      if headers:getAtIndex(place[1], index):find(place[2], 1, true) then found = found + 1 end
    end
  end
  local query = (headers:get(":path") or ""):match("%?(.*)$")
  if query ~= nil then found = found + parameters(query, "&", rule.params) end
  for index = 0, headers:getNumValues("cookie") - 1 do
    found = found + parameters(headers:getAtIndex("cookie", index), ";", rule.cookies)
  end
  return found
end

function envoy_on_request(handle)
  for _, rule in ipairs(rules) do
    if tokens(handle:headers(), rule) > 1 then
      handle:respond({[":status"] = "401"}, "Jwt is given more than once")
      return
    end
  end
end
"""
# Envoy left what it verified as metadata, read by its own parser: no spelling of JSON gets past.
_NOTHING_IGNORED = """
local function refuse(handle, why)
  handle:respond({[":status"] = "401", ["www-authenticate"] = 'Bearer error="invalid_token"'}, why)
end

function envoy_on_request(handle)
  local left = handle:streamInfo():dynamicMetadata():get(FILTER)
  if left == nil then return end
  for key, value in pairs(left) do
    if key:sub(1, #HEADER) == HEADER and type(value) == "table" and value["crit"] ~= nil then
      refuse(handle, "Jwt has critical headers that are not understood")
      return
    end
  end
  local expiry = (left[PAYLOAD] or {})["exp"]
  if type(expiry) == "number" and expiry < 1 then
    refuse(handle, "Jwt is expired")
  end
end
"""


def _quoted(text: str) -> str:
    escaped = (
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\{byte:03d}"
        for byte in text.encode()
    )
    return f'"{"".join(escaped)}"'


def _filter(source: str) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(
        name=LUA,
        typed_config=pack(
            lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=source))
        ),
    )


PORTLESS_HOST = _filter(_PORTLESS)
"""Takes the port, and the dot of a full name, off the Host header."""
HOST_AS_GIVEN = _filter(_AS_GIVEN)
"""Puts back what `PORTLESS_HOST` took off, so that the app sees what the client sent."""

NOTHING_IGNORED = _filter(
    f"local FILTER, HEADER, PAYLOAD = {_quoted(JWT_FILTER)}, {_quoted(JWT_HEADER)},"
    f" {_quoted(JWT_PAYLOAD)}\n{_NOTHING_IGNORED}"
)
"""Answers 401 to a valid token of which Envoy passed something over: a header `crit`, which says
that who does not understand it must refuse the token (RFC 7515, 4.1.11), or an `exp` below 1, which
Envoy takes for none. Comes after the filter that checks tokens.
"""


def one_token(rules: Iterable[JWTRule]) -> hcm_pb2.HttpFilter:
    """Answers 401 to a request with several tokens for one rule, of which Envoy would check one and
    forward both.
    """
    return _filter(
        f"local rules = {{{', '.join(_places(rule) for rule in rules)}}}\n{_ONE_TOKEN}"
    )


def _places(rule: JWTRule) -> str:
    headers = [(place.name.lower(), place.prefix) for place in rule.from_headers]
    params = rule.from_params
    # Where Envoy looks when the rule names no place.
    if not headers and not params and not rule.from_cookies:
        headers, params = [("authorization", "Bearer ")], ("access_token",)
    listed = ", ".join(
        f"{{{_quoted(name)}, {_quoted(prefix)}}}" for name, prefix in headers
    )
    cookies = _set(rule.from_cookies)
    return f"{{headers = {{{listed}}}, params = {_set(params)}, cookies = {cookies}}}"


def _set(names: Iterable[str]) -> str:
    return "{" + ", ".join(f"[{_quoted(name)}] = true" for name in names) + "}"
