#!/usr/bin/env bash
# Seeds one bug after another (src/base/sabotage.rs) and runs the tests that must catch it.
#
#   tests/bugs.sh            all of them
#   tests/bugs.sh TearGroup  only these
#
# A bug is caught when one of its tests fails, all of which pass without it. Fails itself if any bug is not
# caught, or has no test here.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

# bug and the tests that catch it, as a regular expression
readonly BUGS="
SkipPackBarrier           proofs::workloads::collecting_garbage_survives
AcknowledgeBeforeFlush    proofs::workloads::an_editor_survives
AcknowledgeGroupBefore    proofs::workloads::an_editor_survives
TearGroup                 proofs::workloads::a_changing_tree_survives
IgnoreFence               proofs::workloads::machines_that_follow
ForgetWriterInPackNumber  proofs::workloads::machines_that_follow
MiscountNextPack          proofs::workloads::a_database_survives
ForgetOrphan              proofs::model::any_sequence.*_1
KeepPagesUnderHole        proofs::model::any_sequence.*_1
KeepLiveBytes             proofs::model::any_sequence.*_1
ForgetReference           gc::tests::blocks_shared_by_copying
TidyChangedBlock          gc::tests::what_is_written_to_a_block_while_it_is_moved
KeepStaleRecord           proofs::model::any_sequence.*_1
CacheOvertakenLoad        fs::loading::tests
CollectUncommitted        proofs::workloads::collecting_garbage_survives
CollectAtOnce             gc::tests::freed_packs_are_kept
ForgetPackFirst           proofs::workloads::collecting_garbage_survives
SweepPacksInUse           gc::tests::packs_in_use_with_numbers_after_an_orphan
DropPathFromAad           crypto::tests::own_vectors
ReuseSalt                 crypto::tests::promises::sealing_the_same_bytes_twice
SkipPinCheck              volume::pin
"
# A bug may make a test wait for ever.
readonly TEST_S_MAX=300

# run TESTS: those of the library whose names match
run() {
    timeout "$TEST_S_MAX" cargo nextest run --locked --lib -E "test(/$1/)" </dev/null 2>&1
}

cargo nextest run --locked --lib --no-run || exit 1
all=$(awk 'NF { printf "%s%s", sep, $2; sep = "|" }' <<<"$BUGS")
said=$(LIDFS_CRASH_STATES=320 LIDFS_MODEL_CASES=40 run "$all") || {
    tail -n 40 <<<"$said"
    echo "these tests fail, or take too long, without any bug"
    exit 1
}

bugs=0 caught=0
while read -r bug tests; do
    [ -n "$bug" ] || continue
    [ $# -eq 0 ] || [[ " $* " == *" $bug "* ]] || continue
    bugs=$((bugs + 1))
    said=$(LIDFS_SABOTAGE=$bug run "$tests")
    code=$?
    # 100: tests ran, and some failed.
    if [ $code -eq 100 ]; then
        caught=$((caught + 1))
        echo "caught      $bug: $(grep -a -m 1 -oE ' FAIL .*' <<<"$said" | awk '{print $NF}')"
    else
        echo "NOT CAUGHT  $bug (exit $code)"
        tail -n 5 <<<"$said"
    fi
done <<<"$BUGS"

untried=$(comm -23 <(sed -n '/^pub(crate) enum Bug/,/^}/s/^    \([A-Z][A-Za-z]*\),$/\1/p' src/base/sabotage.rs | sort) \
    <(awk 'NF {print $1}' <<<"$BUGS" | sort))
[ -z "$untried" ] || echo "no test named for: $untried"

echo "seeded bugs: $caught of $bugs caught"
[ "$caught" -eq "$bugs" ] && [ -z "$untried" ]
