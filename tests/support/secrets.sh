# shellcheck shell=bash
# Looks for secrets where none may be. To be sourced after lib.sh. Needles are in $work/needles.
: "${support:?}" "${work:?}"

# secret NAME FILE: every form in which the file's bytes could be told, as needles. Base64 in each of its three
# alignments, without the digits at the ends that depend on what stands beside.
secret() {
    python3 - "$1" "$2" <<'PYTHON'
import base64, sys
name, secret = sys.argv[1], open(sys.argv[2], "rb").read()
forms = {"raw": secret, "hex": secret.hex().encode(), "HEX": secret.hex().upper().encode()}
for before in range(3):
    coded = base64.b64encode(bytes(before) + secret).rstrip(b"=")
    inner = coded[-(-before * 8 // 6) : len(coded) - 1]
    forms[f"base64-{before}"] = inner
    forms[f"base64url-{before}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
for form, needle in forms.items():
    print(f"{name}.{form}", needle.hex())
PYTHON
}

# nothing_in WHAT PLACE...: no needle is in those files and directories.
nothing_in() {
    local what=$1 answer
    shift
    answer=$(python3 "$support/search.py" "$work/needles" "$@") || fail "$what: $answer"
    say "$what: no secret in $answer"
}
