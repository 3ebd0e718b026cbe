#!/usr/bin/env bash
# Builds the kernel, boots it in QEMU and shows its console.
#   examples/kernel/boot.sh [--smp N] [--memory M] [--bench]
# With --bench it counts instead: instructions of each operation, usual and longest, and the stack that calls take.
# Exit status: 0 all held, 1 it did not, 2 QEMU is missing or an argument is wrong.
set -euo pipefail
cd "$(dirname "$0")/../.."

cpus=2
memory=256M
words=""
while [ $# -gt 0 ]; do
    case $1 in
    --smp) cpus=${2:?--smp takes a number of CPUs, 1 to 8}; shift 2 ;;
    --memory) memory=${2:?--memory takes a size, like 256M}; shift 2 ;;
    --bench) words=bench; shift ;;
    *) echo "boot.sh [--smp N] [--memory M] [--bench]: what is $1?" >&2; exit 2 ;;
    esac
done
if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "qemu-system-x86_64 is missing: apt-get install qemu-system-x86" >&2
    exit 2
fi

target=x86_64-unknown-linux-gnu
cargo build --quiet --profile kernel -p kernel --features bare --target $target \
    --config "target.$target.rustflags=['-Crelocation-model=static','-Cno-redzone=yes']"
kernel=${CARGO_TARGET_DIR:-target}/$target/kernel/kernel

accelerator=(-accel tcg)
if [ -n "$words" ]; then
    cpus=1
    accelerator=(-accel tcg,thread=single -icount shift=5,sleep=off)
fi
status=0
timeout 300 qemu-system-x86_64 -kernel "$kernel" -append "$words" -smp "$cpus" -m "$memory" -cpu qemu64 \
    -nodefaults -display none -serial stdio -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=0x04 \
    "${accelerator[@]}" || status=$?
case $status in
33) exit 0 ;;
124) echo "the kernel hung" >&2; exit 1 ;;
*) exit 1 ;;
esac
