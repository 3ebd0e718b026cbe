#!/usr/bin/env bash
# The deep check: builds the four crates for bare machines, one of them without 64-bit atomics and three without
# compare-exchange, and for hosts of 32 bits; prints how large `slab` on an arena is on the bare ones. Takes a few minutes, and is not part of CI.
# The compiler is that of rustc-web.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

. examples/freestanding/rustc-web.sh
unpack_rustc_web
here=$rustc_web_folder

# Generic code is compiled by whoever uses it: this one makes a cache on an arena and does what a firmware would.
user=$here/slab-user
mkdir -p "$user/src"
cat >"$user/Cargo.toml" <<END
[package]
name = "slab-user"
version = "0.0.0"
edition = "2024"
[lib]
crate-type = ["staticlib"]
[dependencies]
page-frame = { path = "$PWD/crates/page-frame" }
slab = { path = "$PWD/crates/slab" }
[profile.release]
opt-level = "s"
lto = true
codegen-units = 1
panic = "abort"
[workspace]
END
cat >"$user/src/lib.rs" <<'END'
//! A cache on an arena, for its size.
#![no_std]
use core::{alloc::Layout, mem::MaybeUninit, ptr::NonNull};
use page_frame::{Arena, SingleCpu};
use slab::{Cache, Registry};
type Objects = Cache<(&'static Arena<'static>, SingleCpu)>;
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
#[unsafe(no_mangle)]
extern "C" fn build(memory: &'static mut MaybeUninit<[MaybeUninit<u8>; 1 << 16]>, place: &mut MaybeUninit<Arena<'static>>, cache: &mut MaybeUninit<Objects>) -> bool {
    let memory = unsafe { memory.assume_init_mut() };
    let Ok(arena) = Arena::new(memory) else { return false };
    let arena: &'static Arena<'static> = unsafe { &*core::ptr::from_ref(place.write(arena)) };
    let Ok(registry) = Registry::new(arena, SingleCpu::new()) else { return false };
    let Ok(built) = registry.cache("reading", Layout::new::<[u32; 9]>()).build() else { return false };
    cache.write(built);
    true
}
#[unsafe(no_mangle)]
extern "C" fn allocate(cache: &Objects) -> Option<NonNull<u8>> {
    cache.allocate().ok()
}
#[unsafe(no_mangle)]
unsafe extern "C" fn free(cache: &Objects, object: NonNull<u8>) {
    unsafe { cache.free(object) }
}
#[unsafe(no_mangle)]
extern "C" fn shrink(cache: &Objects) -> usize {
    cache.shrink_all()
}
END

build() { # target, more arguments
    local target=$1
    shift
    RUSTC=$rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$here/target cargo build --quiet --release \
        -Zbuild-std=core,alloc --target "$target" "$@"
}
for target in x86_64-unknown-none aarch64-unknown-none riscv64gc-unknown-none-elf thumbv7em-none-eabi \
    thumbv6m-none-eabi riscv32i-unknown-none-elf riscv32imc-unknown-none-elf; do
    build "$target" -p page-frame -p buddy -p slab -p kmalloc
    build "$target" --manifest-path "$user/Cargo.toml"
    # The library's own parts (memcpy, formatting of panics) lie in other members of the archive.
    bytes=$(size "$here/target/$target/release/libslab_user.a" 2>/dev/null | awk '/slab_user/ { sum += $1 } END { print sum }')
    echo "$target: all four build; slab on an arena: ${bytes:-?} bytes of code and constants"
done
for target in i686-unknown-linux-gnu armv7-unknown-linux-gnueabihf wasm32-unknown-unknown; do
    build "$target" -p page-frame -p buddy -p slab -p kmalloc
    echo "$target: all four build"
done

# The heap of programs, on the second machine that it supports.
RUSTC=$rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$here/target cargo check --quiet -Zbuild-std=core,alloc \
    --target aarch64-unknown-linux-gnu -p hosted
echo "aarch64-unknown-linux-gnu: hosted compiles"
