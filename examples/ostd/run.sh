#!/usr/bin/env bash
# Boots the kernel of OSTD 0.18.0 twice in QEMU, on the frame allocator of OSDK and on `buddy`: runs OSTD's own tests and ours,
# and prints how many instructions each operation takes.
#   examples/ostd/run.sh [--release]
# The kernel is built at level 1 with debug assertions; with --release, optimized and without them.
# Exit status: 0 all held, 1 it did not, 2 a package is missing or an argument is wrong.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TERM_COLOR=never
unset RUSTFLAGS

profile=dev
folder=debug
# The most instructions of ours: what OSDK's allocator takes in this profile. A release is not judged.
limits="frame 493 thousand 1190 segment-of-10 10946 segment-of-512 461452"
case ${1:-} in
'') ;;
--release) profile=release folder=release limits="" ;;
*) echo "run.sh [--release]: what is $1?" >&2; exit 2 ;;
esac
missing() {
    echo "$1" >&2
    exit 2
}

# The compiler, with the sources of its library; and the linker of the Rust toolchain, as the package has none.
linker=$(find "$(rustc --print sysroot)" -name rust-lld -type f | head -1)
[ -n "$linker" ] || missing "the Rust toolchain has no rust-lld"
command -v qemu-system-x86_64 >/dev/null || missing "qemu-system-x86_64 is missing: apt-get install qemu-system-x86"
. examples/freestanding/rustc-web.sh
has_rustc_web || missing "the packages rustc-web and rust-web-src are not there"
unpack_rustc_web || missing "the packages rustc-web and rust-web-src cannot be unpacked"
[[ $("$rustc" --version) = *' 1.96.'* ]] || missing "OSTD 0.18.0 takes the unstable interfaces of rustc 1.96"
export RUSTC=$rustc RUSTC_BOOTSTRAP=1

# Two files that OSDK generates kernels from, which are MPL-2.0: they stay in the registry's folder.
osdk() { find "${CARGO_HOME:-$HOME/.cargo}/registry" -path "*/cargo-osdk-0.18.0$1" | head -1; }
if [ -z "$(osdk /src/base_crate)" ] || [ -z "$(osdk .crate)" ]; then
    cargo info --quiet cargo-osdk@0.18.0 >/dev/null || missing "the crate registry does not answer"
fi
echo "726c0c05c18c46b783bd86060f775560609a0bf4696bd0cc2d8f265d59aa3764  $(osdk .crate)" | sha256sum --check --quiet
OSDK_TEMPLATES=$(osdk /src/base_crate)
export OSDK_TEMPLATES

target=x86_64-unknown-none
CARGO_TARGET_DIR=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/ostd
export CARGO_TARGET_DIR
export CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER=$linker
# The flags of `cargo osdk test`.
export CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS="-Crelocation-model=static -Crelro-level=off -Cforce-unwind-tables=yes \
-Cno-redzone=y -Cpanic=unwind --cfg ktest --check-cfg cfg(ktest)"

# Builds the kernel with the given features and boots it; its console is kept in a file.
boot() { # name, features, CPUs, arguments of QEMU
    local name=$1 features=$2 cpus=$3 kernel status=0
    shift 3
    (cd examples/ostd && cargo build --quiet --locked --profile "$profile" -p ostd-base --features "$features" \
        --target $target -Zbuild-std=core,alloc,compiler_builtins -Zbuild-std-features=compiler-builtins-mem)
    # QEMU takes a kernel of this kind from ELF files for the 386 alone; that is the machine field, at byte 18.
    kernel=$CARGO_TARGET_DIR/$name.elf
    cp "$CARGO_TARGET_DIR/$target/$folder/ostd-base" "$kernel"
    printf '\x03\x00' | dd of="$kernel" bs=1 seek=18 conv=notrunc status=none
    # With 512 MiB OSTD faults in tables of the firmware that it does not map. Memory that it does not touch costs nothing.
    timeout 300 qemu-system-x86_64 -machine q35 -cpu max -m 3G -smp "$cpus" -nodefaults -display none -no-reboot \
        -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=0x04 -kernel "$kernel" -append console=ttyS0 "$@" \
        >"$CARGO_TARGET_DIR/$name.log" || status=$?
    # The line of each crate says how many of its tests have passed.
    sed -E 's/\x1b\[[0-9;]*m//g' "$CARGO_TARGET_DIR/$name.log" | awk -v name="$name" '
        /^running [0-9]+ tests in crate/ { crate = $NF }
        /^test result/ { gsub(/"/, "", crate); printf "%s: %s: %d passed, %d failed\n", name, crate, $4, $6 }'
    if [ $status != 33 ]; then
        tail -40 "$CARGO_TARGET_DIR/$name.log"
        echo "$name: QEMU ended with $status" >&2
        exit 1
    fi
}
all_of_ostd() { # name: fails unless all of OSTD's own tests have run
    grep -aq 'running 198 tests in crate "ostd"' "$CARGO_TARGET_DIR/$1.log" && return
    echo "$1: OSTD's 198 tests did not run" >&2
    exit 1
}

boot theirs "" 1 -icount shift=0,sleep=off
all_of_ostd theirs
boot ours ours 1 -icount shift=0,sleep=off
all_of_ostd ours
boot ours-on-4-CPUs ours,frames-only 4

counts() { tr -d '\r' <"$CARGO_TARGET_DIR/$1.log" | sed -n 's/^count //p'; }
printf '%-16s %8s %8s\n' instructions theirs ours
join <(counts theirs) <(counts ours) --nocheck-order |
    awk -v limits="$limits" '
        BEGIN { n = split(limits, pairs, " "); for (i = 1; i < n; i += 2) limit[pairs[i]] = pairs[i + 1] }
        { printf "%-16s %8d %8d\n", $1, $2, $3 }
        $1 in limit && $3 > limit[$1] { printf "%s: above the limit of %d\n", $1, limit[$1]; failed = 1 }
        END { exit failed || NR != 4 }'
