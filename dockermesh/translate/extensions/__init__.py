"""The user's own code in proxies: WasmPlugin."""
