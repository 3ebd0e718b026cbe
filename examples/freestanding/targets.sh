#!/usr/bin/env bash
# The deep check: builds the four crates for bare machines, one of them without 64-bit atomics, and prints how large `slab`
# on an arena is there. Takes a few minutes, and is not part of CI.
#
# Bare targets need a compiler with the sources of its library. Debian's packages rustc-web and rust-web-src have both, and
# are unpacked beside the build, not installed: apt-get, dpkg and about 500 MB of room are needed.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=$PWD/${CARGO_TARGET_DIR:-target}/rustc-web
if [ ! -x "$here/usr/bin/rustc" ]; then
    mkdir -p "$here/packages"
    # The compiler's own library and LLVM carry version numbers in their names: ask which ones.
    runtime=$(apt-cache depends libstd-rust-web-dev | awk '/Depends: libstd-rust-web-/ { print $2 }')
    llvm=$(apt-cache depends "$runtime" | awk '/Depends: libllvm/ { print $2 }')
    (cd "$here/packages" && apt-get download rustc-web rust-web-src libstd-rust-web-dev "$runtime" $llvm)
    for package in "$here"/packages/*.deb; do
        dpkg -x "$package" "$here"
    done
fi
rustc=$(find "$here" -path '*/bin/rustc' -type f -o -path '*/bin/rustc' -type l | head -1)
source=$(find "$here" -type d -path '*/library' -name library | head -1)
export LD_LIBRARY_PATH=$(dirname "$(find "$here" -name 'librustc_driver-*.so' | head -1)"):${LD_LIBRARY_PATH:-}
# Cargo looks for the library's sources below the compiler's own folder.
sysroot=$("$rustc" --print sysroot)
mkdir -p "$sysroot/lib/rustlib/src/rust"
[ -e "$sysroot/lib/rustlib/src/rust/library" ] || ln -s "$source" "$sysroot/lib/rustlib/src/rust/library"
"$rustc" --version

for target in x86_64-unknown-none aarch64-unknown-none riscv64gc-unknown-none-elf thumbv7em-none-eabi; do
    RUSTC=$rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$here/target cargo build --quiet --release \
        -Zbuild-std=core,alloc --target "$target" -p page-frame -p buddy -p slab -p kmalloc
    bytes=$(size -t "$here/target/$target/release/libslab.rlib" 2>/dev/null | awk 'END { print $1 }')
    echo "$target: builds; generic code is compiled by its user, libslab alone has ${bytes:-?} bytes of code"
done
