"""The analyzers, one module for each group; `registry` lists them."""
