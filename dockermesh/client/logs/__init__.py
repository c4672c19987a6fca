"""The logs of apps and of their proxies as one."""
