"""Traffic as `dockermesh top` and `dockermesh graph` show it; pure, but for who asks."""
