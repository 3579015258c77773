"""snapshot, shelve, shelve_offload, unshelve: a guest's disk as an image, and a server that rests without a host.

snapshot:        upload   host sends the disk's bytes to the image store      <- the command's answer: size and checksums
                 finish   the image is active                                 (pivot); undo: the image goes back to nothing
shelve:          stop, upload, finish (SHELVED; the guest stays on its host, stopped)
shelve_offload:  purge    only once the snapshot is recorded as active         finish (SHELVED_OFFLOADED: no host, no claim)
unshelve:        a shelved server starts where it is; an offloaded one is booted again, from its snapshot

The last copy rule: offloading refuses to begin unless the snapshot image is active with its checksum on record.
"""
from __future__ import annotations

from virga.domain.image import ACTIVE as IMAGE_ACTIVE
from virga.domain.image import DeletedImage, Image, ImageMember, filled
from virga.domain.operation import ABSENT, COMMAND_DONE, RUN, STOP, Command
from virga.domain.server import ACTIVE, ERROR, POWER, SHELVED, SHELVED_OFFLOADED
from virga.ops import placing
from virga.ops.bindings import activate_binding, open_binding, unbind
from virga.ops.boot import fault, place, placed, unplace
from virga.ops.guests import spec_args
from virga.ops.interfaces import answered
from virga.ops.power import as_reported
from virga.ops.procedure import Run, StepDef, Verdict, at_once, failed, good, procedure
from virga.ops.waits import both, is_away, ports_of, wait_gone, wait_guest, wait_wired
from virga.store.db import Tx


def upload(run: Run) -> None:
    image_id = run.op.input["image_id"]
    run.tx.update(Image, image_id, status="saving", updated_at=run.tx.now)
    run.set_server(task_state="image_uploading" if run.op.kind == "snapshot" else "shelving_image_uploading")
    run.command(run.server.host or "", "snapshot", image_id=image_id)


def fill_image(run: Run) -> None:
    """Take what the host said of the bytes it has put into the store, and make the image active."""
    image_id = run.op.input["image_id"]
    for command in run.tx.find(Command, operation_id=run.op.id, verb="snapshot", state=COMMAND_DONE):
        result = command.result
        run.tx.update(Image, image_id, **filled(int(result["size_bytes"]), str(result["md5"]), str(result["sha512"]), str(result["blob"]),
                                                result.get("virtual_size_bytes"), run.tx.now))


def drop_image(run: Run, error: str) -> None:
    image = run.tx.get(Image, run.op.input["image_id"])
    if image is not None and image.status != IMAGE_ACTIVE:
        run.tx.delete(Image, image.id)
    as_reported(run, error)


def snapshot_done(run: Run) -> None:
    fill_image(run)
    run.set_server(task_state=None)


SNAPSHOT = procedure(
    "snapshot",
    StepDef("upload", upload, answered, undo="the image row is dropped when the operation ends", event="compute_snapshot_instance",
            deadline=lambda config: config.compute.copy_timeout),
    StepDef("finish", snapshot_done, at_once, undo="the pivot"),
    cancelled=drop_image, stuck=drop_image,
)


def stop(run: Run) -> None:
    server = run.server
    host = server.host or ""
    run.command(host, "power", action="stop", hard=False, spec=spec_args(run.tx, server, server.flavor, host))


def stopped(run: Run) -> Verdict:
    return wait_guest(run, run.server.host or "", STOP)


def shelve_done(run: Run) -> None:
    fill_image(run)
    run.set_server(vm_state=SHELVED, task_state=None, power_state=POWER["stopped"])


SHELVE = procedure(
    "shelve",
    StepDef("stop", stop, stopped, undo="nothing: the server is shown as its host reports it", event="compute_shelve_instance"),
    StepDef("upload", upload, answered, undo="the image row is dropped when the operation ends",
            deadline=lambda config: config.compute.copy_timeout),
    StepDef("finish", shelve_done, at_once, undo="the pivot"),
    cancelled=drop_image, stuck=drop_image,
)


def check_copy(run: Run) -> None:
    run.set_server(task_state="shelving_offloading")


def copy_is_good(run: Run) -> Verdict:
    image = run.tx.get(Image, run.op.input["image_id"])
    if image is None or image.status != IMAGE_ACTIVE or not image.os_hash_value:
        return failed("the snapshot of the server is not recorded as good, so its disk is not given up")
    return good(f"snapshot {image.id} is active")


def purge(run: Run) -> None:
    run.command(run.server.host or "", "purge")


def purged(run: Run) -> Verdict:
    host = run.server.host or ""
    return good(f"{host} is away, the purge waits for it") if is_away(run, host) else wait_guest(run, host, ABSENT)


def offloaded(run: Run) -> None:
    placing.release_all(run.tx, run.server.id)
    for port in ports_of(run):
        unbind(run.tx, port)
    run.set_server(vm_state=SHELVED_OFFLOADED, task_state=None, host=None, power_state=0)


def still_shelved(run: Run, error: str) -> None:
    run.set_server(task_state=None, fault=fault(run, error))


SHELVE_OFFLOAD = procedure(
    "shelve_offload",
    StepDef("check", check_copy, copy_is_good, undo="nothing"),
    StepDef("purge", purge, purged, undo="nothing: the snapshot is the server now", event="compute_shelve_offload_instance"),
    StepDef("finish", offloaded, at_once, undo="the pivot"),
    cancelled=still_shelved, stuck=still_shelved,
)


def start_again(run: Run) -> None:
    server = run.server
    host = server.host or ""
    run.set_server(task_state="spawning")
    for port in ports_of(run):
        open_binding(run.tx, port, host)
    run.command(host, "create", spec=spec_args(run.tx, server, server.flavor, host, image_id=run.op.input.get("image_id")), power="running")


def started_again(run: Run) -> Verdict:
    host = run.server.host or ""
    return both(wait_guest(run, host, RUN), wait_wired(run, host))


def place_again(run: Run) -> None:
    if run.server.host is None:
        place(run)
        run.note(placed=True)


def unplace_again(run: Run) -> None:
    if run.op.notes.get("placed"):
        unplace(run)
        run.set_server(host=None)


def unstart(run: Run) -> None:
    """Only a server that was offloaded is purged again: its snapshot stays. One that was merely shelved keeps its disk, stopped."""
    server = run.server
    host = server.host or ""
    if run.op.notes.get("placed"):
        run.command(host, "purge")
    else:
        run.command(host, "power", action="stop", hard=True, spec=spec_args(run.tx, server, server.flavor, host))


def unstarted(run: Run) -> Verdict:
    host = run.server.host or ""
    if is_away(run, host):
        return good(f"{host} is away, the command waits for it")
    return wait_gone(run, host) if run.op.notes.get("placed") else wait_guest(run, host, STOP)


def unshelved(run: Run) -> None:
    for port in ports_of(run):
        activate_binding(run.tx, port.id, run.server.host or "")
    run.set_server(vm_state=ACTIVE, task_state=None, power_state=POWER["running"], fault=None, launched_at=run.tx.now)
    forget_image(run.tx, str(run.op.input["image_id"]))


def forget_image(tx: Tx, image_id: str) -> None:
    """An image made by a procedure is needed no more: its row goes now, its bytes when the commit has told of them."""
    image = tx.get(Image, image_id)
    if image is None or image.protected:
        return
    tx.delete(Image, image_id)
    tx.delete_where(ImageMember, image_id=image_id)
    tx.insert(DeletedImage(image_id, tx.now))
    if image.blob:
        tx.hint("blob:" + image.blob)


def still_offloaded(run: Run, error: str) -> None:
    run.set_server(vm_state=SHELVED_OFFLOADED if run.op.notes.get("placed") else SHELVED, task_state=None, fault=fault(run, error))


def unshelve_stuck(run: Run, error: str) -> None:
    run.set_server(vm_state=ERROR, task_state=None, fault=fault(run, error))


UNSHELVE = procedure(
    "unshelve",
    StepDef("place", place_again, placed, undo=unplace_again, redo=True, deadline=placing.choice_deadline),
    StepDef("spawn", start_again, started_again, undo=unstart, undone=unstarted, event="compute_unshelve_instance",
            deadline=lambda config: config.compute.copy_timeout),
    StepDef("finish", unshelved, at_once, undo="the pivot"),
    cancelled=still_offloaded, stuck=unshelve_stuck,
)
