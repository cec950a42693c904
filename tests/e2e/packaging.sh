#!/usr/bin/env bash
# The systemd units are valid, and the drive's service says when it is ready; the mount helper serves mount(8) and fstab.
source "$(dirname "$0")/../support/lib.sh"

# A unit names its program by an absolute path; here it is where the package would put it.
check_unit() {
    local unit=$1 name answer
    name=$(basename "$unit")
    # It tells of mistakes such as unknown keys, but only in words.
    answer=$(systemd-analyze verify --man=no --recursive-errors=no "${unit/@./@example.}" 2>&1) || true
    [ -z "$answer" ] || fail "$name: $answer"
    say "$name: systemd-analyze verify finds nothing"
}

# What systemd would see: READY=1 when the drive can be used, and a clean end after SIGTERM.
check_notify() {
    python3 - "$lidfs" "$conf" "$mnt" "$vol" <<'PYTHON'
import os, signal, socket, subprocess, sys
lidfs, conf, mnt, vol = sys.argv[1:]
address = os.path.join(vol, "notify")
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(address)
listener.settimeout(60)
environment = dict(os.environ, NOTIFY_SOCKET=address, E2E_MACHINE=vol)
with open(os.path.join(vol, "log", "foreground"), "wb") as log:
    daemon = subprocess.Popen(
        [lidfs, "mount", "-c", conf, "--foreground", mnt],
        env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )
while b"READY=1" not in listener.recv(4096).split(b"\n"):
    pass
if not os.path.ismount(mnt):
    sys.exit("READY=1 came before the mount")
with open(os.path.join(mnt, "from the service"), "w") as file:
    file.write("written, not flushed")
daemon.send_signal(signal.SIGTERM)
if code := daemon.wait(timeout=60):
    sys.exit(f"exit {code} after SIGTERM")
if os.path.ismount(mnt):
    sys.exit("still mounted after SIGTERM")
PYTHON
    say "the service: READY=1 once mounted, a clean end after SIGTERM"
}

# The very command of the self-test's unit does its work on this volume.
check_selftest_service() {
    local command
    mkdir -p "$work/etc"
    cp "$conf" "$work/etc/example.toml"
    command=$(sed -nE "s|^ExecStart=||; s|/etc/lidfs/%i|$work/etc/example|p" "$work/units/lidfs-selftest@.service")
    read -ra command <<<"$command"
    run "${command[@]}"
    grep -q '^ok *sealing' "$work/out/run" || fail "the service of the self-test: $(cat "$work/out/run")"
    say "the service of the self-test: $(grep -c '^ok' "$work/out/run") checks are well"
}

# mount(8) finds a helper in /sbin by the type of the file system.
install_helper() {
    local helper
    for helper in mount.lidfs mount.fuse.lidfs; do
        [ ! -e "/sbin/$helper" ] || continue
        ln -s "$lidfs" "/sbin/$helper"
        at_end "rm -f /sbin/$helper"
    done
}

# Mounts with the command given, reads what is there, and unmounts with plain umount(8).
through_mount() {
    local what=$1
    shift
    E2E_MACHINE=$vol setsid timeout 60 "$@" >"$log/mount.out" 2>&1 </dev/null || fail "$what: $(cat "$log/mount.out")"
    [ "$(findmnt -no FSTYPE "$mnt")" = fuse.lidfs ] || fail "$what: the type is $(findmnt -no FSTYPE "$mnt")"
    [ "$(cat "$mnt/from the service")" = "written, not flushed" ] || fail "$what: the file is not there"
    echo "$what" >"$mnt/by mount"
    run umount "$mnt"
    local deadline=$((SECONDS + 60))
    while [ -n "$(daemon_pids "$vol")" ]; do
        [ $SECONDS -lt $deadline ] || fail "$what: the daemon still runs 60 s after umount"
        sleep 0.1
    done
    lose_machine
    mount_volume
    [ "$(cat "$mnt/by mount")" = "$what" ] || fail "$what: what was written before plain umount is lost"
    umount_volume
    say "$what: mounts, and plain umount leaves everything in the bucket"
}

server ceph-rgw
new_volume

mkdir -p "$work/units"
for unit in "$root"/packaging/systemd/*; do
    sed "s|/usr/bin/lidfs|$lidfs|g" "$unit" >"$work/units/$(basename "$unit")"
done
for unit in lidfs@.service lidfs-selftest@.service lidfs-selftest@.timer; do
    check_unit "$work/units/$unit"
done
grep -q '^Type=notify' "$work/units/lidfs@.service" || fail "lidfs@.service is not of Type=notify"
check_selftest_service
check_notify
lose_machine

install_helper
through_mount "mount -t fuse.lidfs" mount -t fuse.lidfs -o "config=$conf,allow_other" "$url" "$mnt"
printf '%s %s fuse.lidfs config=%s,allow_other,_netdev,noauto 0 0\n' "$url" "$mnt" "$conf" >"$work/fstab"
through_mount "a line of fstab" mount --fstab "$work/fstab" "$mnt"

# The line in the example has the form that works.
example=$(find "$root/packaging" -name '*fstab*' | head -n 1)
[ -n "$example" ] || fail "no fstab example in packaging/"
grep -qE '^[^#].*[[:space:]]fuse\.lidfs[[:space:]].*config=' "$example" || fail "$example has no fuse.lidfs line with config="
