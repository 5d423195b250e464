"""Drives BMCs of several vendors' manners with sushy, the Redfish client of OpenStack Ironic.

python profiles.py USER PASSWORD-FILE

On standard input a line of JSON for each: {"profile", "url", "image"}. Inserts, sets the one-time boot, switches on and off, ejects;
prints `profile ok`, or `profile` and why not.
"""

import json
import pathlib
import sys
import time

import sushy
from sushy import auth

PATIENCE_S = 60
CD = {sushy.VIRTUAL_MEDIA_CD, sushy.VIRTUAL_MEDIA_DVD}
TARGETS = (sushy.BOOT_SOURCE_TARGET_USB_CD, sushy.BOOT_SOURCE_TARGET_CD)


def wait(what, condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"never {what}")
        time.sleep(0.1)


def power_is(system, state):
    def look():
        system.refresh()
        return system.power_state == state

    return look


def is_in(cd):
    cd.refresh()
    # Some write their booleans as strings.
    return str(cd.inserted).lower() == "true"


def insert(system, image):
    slots = [slot for manager in system.managers for slot in manager.virtual_media.get_members()]
    last = RuntimeError("no slot for CDs")
    for cd in (slot for slot in slots if CD & set(slot.media_types or [])):
        try:
            cd.insert_media(image)
            return cd
        except sushy.exceptions.SushyError as error:
            last = error
    raise last


def drive(url, user, password, image):
    service = sushy.Sushy(url, auth=auth.SessionOrBasicAuth(user, password))
    systems = service.get_system_collection().get_members()
    system = next(system for system in systems if system.identity == "1")
    cd = insert(system, image)
    wait("in", lambda: is_in(cd))
    allowed = system.get_allowed_system_boot_source_values()
    target = next(target for target in TARGETS if target in allowed)
    system.set_system_boot_options(target, enabled=sushy.BOOT_SOURCE_ENABLED_ONCE)
    system.reset_system(sushy.RESET_ON)
    wait("on", power_is(system, sushy.POWER_STATE_ON))
    system.reset_system(sushy.RESET_FORCE_OFF)
    wait("off", power_is(system, sushy.POWER_STATE_OFF))
    cd.eject_media()
    wait("out", lambda: not is_in(cd))


def main(user, password_file):
    password = pathlib.Path(password_file).read_text().strip()
    for line in sys.stdin:
        one = json.loads(line)
        try:
            drive(one["url"], user, password, one["image"])
            said = "ok"
        except Exception as error:  # whatever sushy makes of it is the result
            said = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(one["profile"], said, flush=True)


main(*sys.argv[1:])
