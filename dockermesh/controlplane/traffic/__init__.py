"""Who calls whom, read from the proxies' own metrics while somebody looks, and at no other time."""
