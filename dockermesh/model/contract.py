CONSUL_DOMAIN = "consul"


def service_domain(consul_domain: str) -> str:
    return f"service.{consul_domain}"


DEFAULT_SERVICE_DOMAIN = service_domain(CONSUL_DOMAIN)
