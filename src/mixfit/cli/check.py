"""``mixfit check``: is this machine ready?"""

import json as json_module
from dataclasses import asdict
from typing import Annotated

from mixfit.cli.flags import Switch
from mixfit.errors import ResourceError


def check(*, json: Annotated[bool, Switch] = False) -> None:
    """Check this machine: versions, device, memory, disk, photo decoders, weights, and a training of some seconds.

    Exit code 4 if something needed is missing. To diagnose a training instead, see mixfit train --doctor.

    Parameters
    ----------
    json
        Print one JSON object per point for other programs.
    """
    from mixfit.auto.environment import check_environment

    missing = []
    for one in check_environment():
        if json:
            print(json_module.dumps(asdict(one)), flush=True)
        else:
            print(f" {one.level:<8}{one.name + ':':<17}{one.text}", flush=True)
            if one.fix:
                print(f" {'':<25}-> {one.fix}", flush=True)
        if one.level == "missing":
            missing.append(one.name)
    if missing:
        raise ResourceError(f"missing on this machine, but needed: {', '.join(missing)}.")
    if not json:
        print(" This machine is ready: mixfit demo")
