#!/usr/bin/env bash
# Builds the program without libraries and runs it; then sees that its twin, which asks for std, does not build.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=x86_64-unknown-linux-gnu
build() {
    cargo build --quiet --profile kernel -p freestanding --features "$1" --target $target \
        --config "target.$target.rustflags=['-Crelocation-model=static']"
}
build bare
status=0
"${CARGO_TARGET_DIR:-target}/$target/kernel/freestanding" || status=$?
if [ "$status" != 42 ]; then
    echo "the freestanding program ended with $status, not with 42" >&2
    exit 1
fi
if twin=$(build bare,with-std 2>&1); then
    echo "the twin with std was built: then the proof proves nothing" >&2
    exit 1
fi
if ! grep -q "duplicate lang item .*panic_impl" <<<"$twin"; then
    printf 'the twin with std failed, but not for its second panic handler:\n%s\n' "$twin" >&2
    exit 1
fi
echo "freestanding: 42, and the twin with std does not build"
