"""The control plane as a collector of traces: it takes proxies' spans, keeps the newest, and tells
of them.
"""
