"""DNS of the control plane: what pods' name servers cannot answer from their proxies' tables."""
