"""What the mesh costs an app: time of `up`, and memory per workload, against plain `docker compose
up`.

Both bring up bookinfo from images that are there already, in turn, A B A B, so that a machine that
drifts slows both. Plain and meshed run under project names of their own; nothing of the user's is
touched. Prints one JSON object.

    python bench/up/run.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "bookinfo" / "compose.yaml"
PLAIN, MESHED = "bench-plain", "bench-mesh"


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Run a command to its end; its output. Exits with its error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def timed(*command: str, env: dict[str, str] | None = None) -> float:
    """Seconds that a command takes."""
    start = time.monotonic()
    run(*command, env=env)
    return time.monotonic() - start


def memory(role: str) -> list[float]:
    """MiB of every running container of a role in the meshed project, without the page cache."""
    ids = run(
        "docker",
        "ps",
        "-q",
        "-f",
        f"label=com.docker.compose.project={MESHED}",
        "-f",
        f"label=dockermesh.io/role={role}",
    ).split()
    sizes = []
    for identity in ids:
        pid = run("docker", "inspect", "-f", "{{.State.Pid}}", identity).strip()
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kib = next(
            int(line.split()[1])
            for line in text.splitlines()
            if line.startswith("Pss:")
        )
        sizes.append(kib / 1024)
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as state:
        env = dict(os.environ) | {"XDG_STATE_HOME": state}
        compose = ("docker", "compose", "-f", str(SAMPLE))
        mesh = ("dockermesh",)
        up = (
            *mesh,
            "up",
            "-q",
            "-f",
            str(SAMPLE),
            "-p",
            MESHED,
            "--gateway-port",
            "9081:30989",
        )
        down = (*mesh, "down", "-f", str(SAMPLE), "-p", MESHED, "-v")
        run(*compose, "-p", PLAIN, "build", "-q")
        run(*up, env=env)
        sizes = {role: memory(role) for role in ("pod", "proxy")}
        plain, cold, warm = [], [], []
        for _ in range(rounds):
            run(*down, env=env)
            plain.append(timed(*compose, "-p", PLAIN, "up", "-d"))
            run(*compose, "-p", PLAIN, "down", "-t", "1")
            cold.append(timed(*up, env=env))
            warm.append(timed(*up, env=env))
        run(*down, env=env)
    median = statistics.median
    figures = {
        "docker compose up, s": plain,
        "dockermesh up with the mesh, s": cold,
        "dockermesh up again, nothing to do, s": warm,
        "pod, MiB (PSS)": sizes["pod"],
        "proxy, MiB (PSS)": sizes["proxy"],
    }
    report = {
        name: {"median": round(median(v), 2), "all": [round(x, 2) for x in v]}
        for name, v in figures.items()
    }
    ratio = median(c / p for c, p in zip(cold, plain, strict=True))
    print(
        json.dumps(
            {"rounds": rounds, **report, "up against compose, ratio": round(ratio, 2)},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
