"""Drives a BMC with sushy, the Redfish client of OpenStack Ironic.

python drive.py URL USER PASSWORD-FILE boot   ejects, inserts, boots once from it, powers on
python drive.py URL USER PASSWORD-FILE end    it is still in and the one-time boot used up; powers off, ejects

The image's URL comes on standard input.
"""

import pathlib
import sys
import time

import sushy
from sushy import auth

PATIENCE_S = 120


def wait(what, condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"never {what}")
        time.sleep(0.2)


def power_is(system, state):
    def look():
        system.refresh()
        return system.power_state == state

    return look


def boot(system, cd, image):
    if cd.inserted:
        cd.eject_media()
    cd.insert_media(image)
    cd.refresh()
    assert cd.inserted and cd.image == image, f"the slot shows {cd.image}"
    system.set_system_boot_options(sushy.BOOT_SOURCE_TARGET_CD, enabled=sushy.BOOT_SOURCE_ENABLED_ONCE)
    system.refresh()
    assert system.boot.target == sushy.BOOT_SOURCE_TARGET_CD, system.boot.target
    assert system.boot.enabled == sushy.BOOT_SOURCE_ENABLED_ONCE, system.boot.enabled
    system.reset_system(sushy.RESET_ON)
    wait("on", power_is(system, sushy.POWER_STATE_ON))


def end(system, cd, image):
    assert cd.inserted and cd.image == image, f"the slot shows {cd.image}"
    system.refresh()
    assert system.boot.enabled == sushy.BOOT_SOURCE_ENABLED_DISABLED, "the one-time boot is still set"
    system.reset_system(sushy.RESET_FORCE_OFF)
    wait("off", power_is(system, sushy.POWER_STATE_OFF))
    cd.eject_media()
    cd.refresh()
    assert not cd.inserted and not cd.image, f"after the eject the slot shows {cd.image}"


def main(url, user, password_file, verb):
    image = sys.stdin.readline().strip()
    password = pathlib.Path(password_file).read_text().strip()
    service = sushy.Sushy(url, auth=auth.SessionAuth(user, password))
    system = service.get_system()
    slots = system.managers[0].virtual_media.get_members()
    cd = next(slot for slot in slots if sushy.VIRTUAL_MEDIA_CD in slot.media_types)
    {"boot": boot, "end": end}[verb](system, cd, image)


main(*sys.argv[1:])
