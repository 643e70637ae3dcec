"""Stands in for the two agents that raylet starts beside itself; run as a script, with their arguments.

The agents serve a dashboard and set up runtime environments. Where there is neither, each would import half
of Ray to wait. raylet asks of them that they leave their ports in files and live as long as it does. This
script imports nothing but what the interpreter has loaded anyway; it ends a second after raylet.
"""

import os
import sys
import time

_PORTS = {
    "agent.py": {"metrics_agent_port": -1, "metrics_export_port": -1, "dashboard_agent_listen_port": -1},
    # raylet would call this one to set up a runtime environment; nobody listens at port 1.
    "main.py": {"runtime_env_agent_port": 1},
}


def main(arguments: list[str]) -> None:
    """Leave the ports of the agent, then wait for the end of raylet.

    Args:
        arguments: The agent's own script, and its options.
    """
    raylet = os.getppid()
    given = dict(option.split("=", 1) for option in arguments[1:] if "=" in option)
    for name, port in _PORTS[os.path.basename(arguments[0])].items():  # noqa: PTH119 - pathlib is an import
        path = f"{given['--session-dir']}/{name}_{given['--node-id']}"
        with open(f"{path}.new", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(str(port))
        os.replace(f"{path}.new", path)  # noqa: PTH105
    while os.getppid() == raylet:
        time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1:])
