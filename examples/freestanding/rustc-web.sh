# Unpacks a compiler with the sources of its library, for targets whose library is not installed. To be sourced, from the root of
# the repository.
#
# Debian's packages rustc-web and rust-web-src have both. They are unpacked below the build folder, not installed: apt-get, dpkg
# and about 500 MB of room are needed.

rustc_web_folder=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)/rustc-web

# Whether the packages are unpacked, or to be had.
has_rustc_web() {
    [ -d "$rustc_web_folder" ] || [ -n "$(apt-cache search --names-only '^rust-web-src$' 2>/dev/null)" ]
}

# Whether the packages are on this machine: unpacked, or installed.
rustc_web_is_here() {
    [ -d "$rustc_web_folder" ] || dpkg -s rustc-web rust-web-src >/dev/null 2>&1
}

# Unpacks the compiler and further packages. Sets `rustc` to the compiler. Fails if a package cannot be had.
unpack_rustc_web() { # package...
    local package runtime llvm source sysroot
    if [ ! -x "$rustc_web_folder/usr/bin/rustc" ] || [ ! -e "$rustc_web_folder/with-$*" ]; then
        mkdir -p "$rustc_web_folder/packages"
        # The compiler's own library and LLVM carry version numbers in their names: ask which ones.
        runtime=$(apt-cache depends libstd-rust-web-dev | awk '/Depends: libstd-rust-web-/ { print $2 }')
        llvm=$(apt-cache depends "$runtime" "$@" | awk '/Depends: lib(llvm|lld)/ { print $2 }' | sort -u)
        (cd "$rustc_web_folder/packages" && apt-get download rustc-web rust-web-src libstd-rust-web-dev "$runtime" $llvm "$@") || return
        for package in "$rustc_web_folder"/packages/*.deb; do
            dpkg -x "$package" "$rustc_web_folder" || return
        done
        touch "$rustc_web_folder/with-$*"
    fi
    rustc=$(find "$rustc_web_folder" -path '*/bin/rustc' \( -type f -o -type l \) | head -1)
    source=$(find "$rustc_web_folder" -type d -path '*/library' -name library | head -1)
    export LD_LIBRARY_PATH
    LD_LIBRARY_PATH=$(dirname "$(find "$rustc_web_folder" -name 'librustc_driver-*.so' | head -1)"):${LD_LIBRARY_PATH:-}
    # Cargo looks for the library's sources below the compiler's own folder.
    sysroot=$("$rustc" --print sysroot)
    mkdir -p "$sysroot/lib/rustlib/src/rust"
    [ -e "$sysroot/lib/rustlib/src/rust/library" ] || ln -s "$source" "$sysroot/lib/rustlib/src/rust/library"
    "$rustc" --version
}
