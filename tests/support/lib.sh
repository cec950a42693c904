# shellcheck shell=bash
# Sourced by the scripts of tests/e2e: servers, volumes, machines, assertions.
#
#   source "$(dirname "$0")/../support/lib.sh"
#   server ceph-rgw          # an S3 server; sets S3_ENDPOINT and the AWS credentials
#   new_volume               # new bucket, keyfile, config, `lidfs init`; sets vol, mnt, conf, key, ...
#   mount_volume             # ... work in "$mnt" ...
#   umount_volume
#   lose_machine             # only config and key are left: "another machine"
#
# A *machine* is a directory with a config file, a keyfile and everything lidfs keeps locally:
#
#   vol/  lidfs.toml  drive.key  mnt/  cache/  state/  log/
#
# Whatever happens, leaving the script ends every daemon that it started and unmounts lazily:
# daemons are found by E2E_MACHINE in their environment, which also names the machine.
set -Eeuo pipefail
shopt -s inherit_errexit

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
support=$root/tests/support
test_name=$(basename "$0" .sh)
long=${E2E_LONG:-}
lidfs=${LIDFS_BIN:-$root/target/release/lidfs}
tools=${LIDFS_TOOLS:-$root/target/tools}
PATH=$tools/bin:$PATH
unset LIDFS_BIN LIDFS_TOOLS LIDFS_CONFIG

# Not below the project: other users must be able to reach the mount (pjdfstest).
work=$(mktemp -d "${TMPDIR:-/tmp}/lidfs-e2e-$test_name.XXXXXX")
chmod 755 "$work"
# A home of its own, so that nothing of the user's (credentials, config) is found by accident.
export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
export HOME=$work/home
unset XDG_CONFIG_HOME XDG_STATE_HOME XDG_CACHE_HOME XDG_RUNTIME_DIR
mkdir -p "$HOME" "$work/out"
export AWS_EC2_METADATA_DISABLED=true PYTHONDONTWRITEBYTECODE=1

servers_started=() buckets=() processes=() undo=()

# ---------------------------------------------------------------- messages and the end

say() { printf '%s: %s\n' "$test_name" "$*"; }
fail() { printf '%s: FAILED: %s\n' "$test_name" "$*" >&2; exit 1; }
took() { say "$1: $((SECONDS - $2)) s"; }

# Registers a command for the end of the script, last registered first.
at_end() { undo=("$1" "${undo[@]}"); }

cleanup() {
    local code=$? item
    trap '' INT TERM HUP
    trap - ERR
    set +eu
    [ "$code" -eq 0 ] || show_logs
    for item in "${undo[@]}"; do eval "$item"; done
    end_daemons "$work" >/dev/null
    unmount_below "$work"
    for item in "${processes[@]}"; do kill -9 -- "$item" 2>/dev/null; done
    for item in "${buckets[@]}"; do s3 remove "$item" >/dev/null 2>&1; done
    for item in "${servers_started[@]}"; do "$support/servers/$item" stop "$(server_dir "$item")" 2>/dev/null; done
    if mounted_below "$work" >/dev/null; then
        say "still mounted, so left in place: $work" >&2
    else
        rm -rf --one-file-system "$work"
    fi
    [ "$code" -eq 0 ] && say ok
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
trap 'printf "%s: FAILED at %s:%s: %s\n" "$test_name" "${BASH_SOURCE[0]##*/}" "$LINENO" "$BASH_COMMAND" >&2' ERR

# What the daemons said, for a failed run.
show_logs() {
    local file
    for file in "$work"/*/log/*; do
        [ -s "$file" ] || continue
        printf -- '--- last lines of %s\n' "${file#"$work"/}" >&2
        tail -n 15 "$file" | cut -c 1-400 >&2
    done
    printf -- '--- daemons that still run: %s\n' "$(daemon_pids "$work" | xargs)" >&2
}

# Ends the daemons of one machine, or of all below a directory, and waits until they are gone.
end_daemons() {
    local pid
    for pid in $(daemon_pids "$1"); do
        kill -9 "$pid" 2>/dev/null
        for _ in {1..100}; do
            [ -e "/proc/$pid/fd/0" ] || break
            sleep 0.05
        done
    done
    return 0
}

mounted_below() { cut -d ' ' -f 5 /proc/self/mountinfo | grep -F "$1/"; }

unmount_below() {
    local mount
    for mount in $(mounted_below "$1" | sort -r); do umount -l "$mount"; done
    return 0
}

# ---------------------------------------------------------------- S3 servers

server_dir() { echo "${E2E_SERVERS:-$root/target/e2e}/$1"; }

# Starts ceph-rgw, s3s-fs or moto unless it runs; sets S3_ENDPOINT, the credentials and AWS_REGION.
# With E2E_KEEP_SERVERS (set by tests/run) it stays for the next script.
server() {
    local name=$1 dir port exports lock
    dir=$(server_dir "$name")
    mkdir -p "$dir"
    [ -n "${E2E_KEEP_SERVERS:-}" ] || servers_started+=("$name")
    # Another script may be starting it, too. The server itself must not hold the lock.
    exec {lock}<"$dir"
    flock "$lock"
    port=$(cat "$dir/port" 2>/dev/null) || port=$(free_port)
    exports=$("$support/servers/$name" start "$dir" "$port" 2>"$work/out/$name.log" {lock}<&-) ||
        fail "$name does not start: $(tail -n 3 "$work/out/$name.log")"
    exec {lock}<&-
    eval "$exports"
    # The config file names the endpoint; the variable would hide a mistake there.
    S3_ENDPOINT=$AWS_ENDPOINT_URL
    unset AWS_ENDPOINT_URL
}

# A store that silently ignores If-Match and If-None-Match, as Garage and `rclone serve s3` do.
forgetful_server() {
    local line
    server moto
    mkfifo "$work/out/forgetful.port"
    setsid python3 "$support/forgetful_proxy.py" "${S3_ENDPOINT#http://}" >"$work/out/forgetful.port" 2>"$work/out/forgetful" </dev/null &
    processes+=($!)
    read -r -t 10 line <"$work/out/forgetful.port" || fail "the forgetful proxy did not start: $(cat "$work/out/forgetful")"
    S3_ENDPOINT=http://$line
}

# The [store] table with which such a server is accepted.
forgetful_store() {
    printf '%s\n' '[store]' "endpoint = \"$S3_ENDPOINT\"" 'region = "us-east-1"' 'path_style = true' 'single_machine = true'
}

# A port with twenty more above it, below the range that the kernel gives to clients.
free_port() {
    python3 - <<'PYTHON'
import random, socket
while True:
    port = random.randrange(10000, 30000)
    try:
        for number in range(port, port + 20):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", number))
        break
    except OSError:
        pass
print(port)
PYTHON
}

# The little S3 client of the tests: s3 create|remove|list|get|put|delete|dump|load ...
s3() { AWS_ENDPOINT_URL=$S3_ENDPOINT python3 "$support/bucket.py" "$@"; }

new_bucket() {
    bucket=e2e-$test_name-$$-${#buckets[@]}
    s3 create "$bucket"
    buckets+=("$bucket")
}

# ---------------------------------------------------------------- machines and volumes

# A machine named $1 for the volume at $2, with the keyfile $3 (made if it is not given).
# $4 is more text for the config file.
machine() {
    vol=$work/$1 url=$2
    mnt=$vol/mnt conf=$vol/lidfs.toml key=$vol/drive.key cache=$vol/cache state=$vol/state log=$vol/log
    mkdir -p "$mnt" "$cache" "$state" "$log"
    if [ -n "${3:-}" ]; then
        install -m 600 "$3" "$key"
    else
        run "$lidfs" key generate "$key"
    fi
    write_config "${4:-}"
}

# $1 is more text for the file. A table that is given there replaces the default one.
write_config() {
    local extra=${1:-}
    {
        table volume "url = \"$url\""
        table store "endpoint = \"${S3_ENDPOINT:-}\"" 'region = "us-east-1"' 'path_style = true'
        table key "keyfile = \"$key\""
        table cache "disk = \"$cache\""
        table state "dir = \"$state\""
        table mount 'allow_other = true'
        table log "file = \"$log/lidfs.log\""
        printf '%s\n' "$extra"
    } >"$conf"
}

# Prints a table of the config file, unless write_config was given one of that name.
table() {
    local name=$1
    shift
    case ${extra-} in *"[$name]"*) return ;; esac
    printf '[%s]\n' "$name"
    printf '%s\n' "$@" ''
}

# New bucket, key, config and volume. $1 names the machine (default: vol), $2 is more config.
new_volume() {
    new_bucket
    machine "${1:-vol}" "s3://$bucket/volume" '' "${2:-}"
    run "$lidfs" init -c "$conf"
}

# Uses the machine $1 that was made earlier.
use_machine() {
    vol=$work/$1
    mnt=$vol/mnt conf=$vol/lidfs.toml key=$vol/drive.key cache=$vol/cache state=$vol/state log=$vol/log
}

# Runs `lidfs mount` for the current machine, in a session of its own and with no descriptor of ours:
# a daemon that kept a pipe open would hang the script. Prints nothing; what it says is in mount.out.
try_mount() {
    E2E_MACHINE=$vol setsid timeout 120 "$lidfs" mount -c "$conf" "$@" "$mnt" >"$log/mount.out" 2>&1 </dev/null
}

mount_volume() {
    local code=0
    try_mount "$@" || code=$?
    [ $code -eq 0 ] || fail "mount: exit $code: $(cat "$log/mount.out")"
    mountpoint -q "$mnt" || fail "mount returned success, but $mnt is not mounted: $(cat "$log/mount.out")"
}

# Mounts after a crash. The lease of the dead mount may still stand; then it is taken over.
mount_after_crash() {
    local code=0
    try_mount "$@" || code=$?
    if [ $code -eq 11 ]; then
        mount_volume --takeover "$@"
    elif [ $code -ne 0 ]; then
        fail "mount after a crash: exit $code: $(cat "$log/mount.out")"
    fi
}

umount_volume() {
    run timeout 600 "$lidfs" umount "$mnt"
    ! mountpoint -q "$mnt" || fail "$mnt is still mounted after lidfs umount"
    local deadline=$((SECONDS + 60))
    while [ -n "$(daemon_pids "$vol")" ]; do
        [ $SECONDS -lt $deadline ] || fail "the daemon still runs 60 s after lidfs umount"
        sleep 0.1
    done
}

flush_volume() { run timeout 600 "$lidfs" flush "$mnt"; }

# Processes of lidfs that were started for the machine (or any below the directory) $1.
daemon_pids() {
    local file
    { grep -lzsE "^E2E_MACHINE=$1(/|\$)" /proc/[0-9]*/environ || true; } | while IFS= read -r file; do
        file=${file%/environ}
        # It may have ended meanwhile.
        if [ "$(readlink "$file/exe")" = "$(realpath "$lidfs")" ]; then echo "${file#/proc/}"; fi
    done
    return 0
}

daemon_pid() {
    local pids
    pids=$(daemon_pids "$vol")
    [ "$(wc -w <<<"$pids")" -eq 1 ] || fail "one daemon expected for $vol, found: ${pids:-none}"
    echo "$pids"
}

# kill -9 and what a dead machine leaves: nothing mounted.
crash() {
    end_daemons "$vol"
    umount -l "$mnt" 2>/dev/null || true
}

# Every local trace is gone; only config and key are left.
lose_machine() {
    rm -rf "$cache" "$state"
    mkdir -p "$cache" "$state"
    rm -rf "${HOME:?}"
    mkdir -p "$HOME"
    drop_caches
}

# Without `sync`, which waits for every disk of the machine: no page of an unmounted drive is left to write.
drop_caches() { echo 3 >/proc/sys/vm/drop_caches; }

# ---------------------------------------------------------------- assertions

# Runs a command quietly; its output is shown only if it fails.
run() {
    local code=0
    "$@" >"$work/out/run" 2>&1 </dev/null || code=$?
    [ $code -eq 0 ] || fail "exit $code: $* -- $(tail -n 12 "$work/out/run")"
}

# expect EXIT REGEX COMMAND...: the exit code, and the message on stderr in one line.
# The exit code may be a choice, such as 1/13. Leaves the message in `message`.
expect() {
    local want=$1 pattern=$2 code=0
    shift 2
    timeout 90 "$@" >"$work/out/stdout" 2>"$work/out/stderr" </dev/null || code=$?
    message=$(cat "$work/out/stderr")
    case /$want/ in */$code/*) ;; *) fail "exit $code, expected $want: $* -- $message" ;; esac
    grep -qiE -- "$pattern" "$work/out/stderr" || fail "the message lacks /$pattern/: $* -- ${message:-(none)}"
    [ "$(wc -l <"$work/out/stderr")" -le 1 ] || fail "the message has more than one line: $message"
}

same() { cmp -s "$1" "$2" || fail "$3 differs: $(diff -a "$1" "$2" | head -n 6 | cut -c 1-300)"; }

at_most() { awk -v have="$2" -v most="$3" 'BEGIN { exit !(have <= most) }' || fail "$1: $2, at most $3 allowed"; }

# Everything about the tree $1 that must survive, into the directory $2: names, types, modes, owners,
# sizes, links, times (of change too), contents, ACLs, extended attributes. Inode numbers as well,
# because backup tools use them; --portable leaves out what only the same file system can keep.
manifest() {
    local stat='%P\t%y\t%m\t%U:%G\t%s\t%n\t%T@\t%l\t%C@\t%i\0'
    [ "${3:-}" != --portable ] || stat='%P\t%y\t%m\t%U:%G\t%T@\t%l\0'
    mkdir -p "$2"
    (
        cd "$1"
        find . -mindepth 1 -printf "$stat" | LC_ALL=C sort -z >"$2/find"
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum -z >"$2/sha256"
        find . -mindepth 1 ! -type l -print0 | LC_ALL=C sort -z | xargs -0r getfacl -nPp >"$2/acl"
        find . -mindepth 1 -print0 | LC_ALL=C sort -z | xargs -0r getfattr -hPd -m - -e hex >"$2/xattr"
    )
}

same_manifest() {
    local part
    for part in find sha256 acl xattr; do same "$1/$part" "$2/$part" "$3 ($part)"; done
}
