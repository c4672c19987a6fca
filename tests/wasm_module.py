"""Proxy-Wasm modules of a few hundred bytes, written byte by byte: no compiler is needed.

Source: the WebAssembly core specification, chapter *Binary Format*, and Proxy-Wasm's ABI 0.2.1.
"""

from __future__ import annotations

from collections.abc import Iterable

_I32 = 0x7F
_NOTHING: tuple[int, int] = (0, 0)
_REQUEST_HEADERS, _RESPONSE_HEADERS, _PLUGIN_CONFIG = 0, 2, 7
CONTINUE, STOP = 0, 1

# Where things are in memory.
_POINTER, _SIZE, _TEXT, _HEAP = 16, 20, 64, 4096

_IMPORTS = {
    "proxy_add_header_map_value": 5,
    "proxy_send_local_response": 8,
    "proxy_get_buffer_bytes": 5,
}
"""Functions of the host by their number of parameters; all return an i32."""
_ADD, _ANSWER, _READ = range(3)


def _number(value: int) -> bytes:
    made = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        made.append(low | (0x80 if value else 0))
        if not value:
            return bytes(made)


def _signed(value: int) -> bytes:
    made = bytearray()
    while True:
        low, value = value & 0x7F, value >> 7
        is_last = (value == 0 and not low & 0x40) or (value == -1 and low & 0x40)
        made.append(low | (0 if is_last else 0x80))
        if is_last:
            return bytes(made)


def _vector(items: Iterable[bytes]) -> bytes:
    listed = list(items)
    return _number(len(listed)) + b"".join(listed)


def _text(value: str) -> bytes:
    return _number(len(value)) + value.encode()


def _section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + _number(len(content)) + content


def _const(value: int) -> bytes:
    return b"\x41" + _signed(value)


def _load(address: int) -> bytes:
    return _const(address) + b"\x28\x02\x00"


def _call(function: int) -> bytes:
    return b"\x10" + _number(function)


_DROP = b"\x1a"
_TRAP = b"\x00"


def _function_type(parameters: int, results: int) -> bytes:
    return (
        b"\x60"
        + _vector(bytes([_I32]) for _ in range(parameters))
        + _vector(bytes([_I32]) for _ in range(results))
    )


def module(
    *,
    on_request: bytes = _const(CONTINUE),
    on_configure: bytes = _const(1),
    on_connection: bytes = _const(CONTINUE),
    texts: bytes = b"",
) -> bytes:
    """A module whose functions have these bodies, with `texts` in its memory."""
    exported: tuple[tuple[str, int, int, bytes], ...] = (
        ("proxy_abi_version_0_2_1", 0, 0, b""),
        ("proxy_on_memory_allocate", 1, 1, _const(_HEAP)),
        ("proxy_on_context_create", 2, 0, b""),
        ("proxy_on_vm_start", 2, 1, _const(1)),
        ("proxy_on_configure", 2, 1, on_configure),
        ("proxy_on_request_headers", 3, 1, on_request),
        ("proxy_on_new_connection", 1, 1, on_connection),
    )
    types = [
        *(_function_type(count, 1) for count in _IMPORTS.values()),
        *(_function_type(takes, gives) for _, takes, gives, _ in exported),
    ]
    imports = [
        _text("env") + _text(name) + b"\x00" + _number(index)
        for index, name in enumerate(_IMPORTS)
    ]
    first = len(_IMPORTS)
    bodies = (_vector([]) + body + b"\x0b" for *_, body in exported)
    exports = [
        _text("memory") + b"\x02\x00",
        *(
            _text(name) + b"\x00" + _number(first + index)
            for index, (name, *_) in enumerate(exported)
        ),
    ]
    return (
        b"\0asm\1\0\0\0"
        + _section(1, _vector(types))
        + _section(2, _vector(imports))
        + _section(3, _vector(_number(first + n) for n in range(len(exported))))
        + _section(5, _vector([b"\x00" + _number(2)]))
        + _section(7, _vector(exports))
        + _section(10, _vector(_number(len(b)) + b for b in bodies))
        + _section(
            11,
            _vector([b"\x00" + _const(_TEXT) + b"\x0b" + _number(len(texts)) + texts]),
        )
    )


def adding_header(name: str, value: str) -> bytes:
    """Adds a header to every request."""
    body = (
        _const(_REQUEST_HEADERS)
        + _const(_TEXT)
        + _const(len(name))
        + _const(_TEXT + len(name))
        + _const(len(value))
        + _call(_ADD)
        + _DROP
        + _const(CONTINUE)
    )
    return module(on_request=body, texts=(name + value).encode())


def adding_its_config(name: str) -> bytes:
    """Adds a header with the plugin's configuration as it is given to it."""
    read = (
        _const(_PLUGIN_CONFIG)
        + _const(0)
        + _const(4096)
        + _const(_POINTER)
        + _const(_SIZE)
        + _call(_READ)
        + _DROP
        + _const(1)
    )
    add = (
        _const(_REQUEST_HEADERS)
        + _const(_TEXT)
        + _const(len(name))
        + _load(_POINTER)
        + _load(_SIZE)
        + _call(_ADD)
        + _DROP
        + _const(CONTINUE)
    )
    return module(on_request=add, on_configure=read, texts=name.encode())


def answering(status: int, text: str) -> bytes:
    """Answers every request itself."""
    body = (
        _const(status)
        + _const(0)
        + _const(0)
        + _const(_TEXT)
        + _const(len(text))
        + _const(0)
        + _const(0)
        + _const(-1)
        + _call(_ANSWER)
        + _DROP
        + _const(STOP)
    )
    return module(on_request=body, texts=text.encode())


def crashing() -> bytes:
    """Crashes at the first request."""
    return module(on_request=_TRAP)


def refusing_its_config() -> bytes:
    """Takes no configuration."""
    return module(on_configure=_const(0))


def crashing_at_connections() -> bytes:
    """A network filter that crashes at the first connection."""
    return module(on_connection=_TRAP)
