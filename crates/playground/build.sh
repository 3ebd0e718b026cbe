#!/usr/bin/env bash
# Builds the playground as one page that opens from a file:
#
#   crates/playground/build.sh [OUT.html]
#
# Needs the target wasm32-unknown-unknown (`rustup target add wasm32-unknown-unknown`). Without it, Debian's rustc-web and lld are
# unpacked below the build folder; `--debian` asks for them. Exit code 3: no compiler is to be had.
set -euo pipefail
compiler=any
if [ "${1:-}" = --debian ]; then
    compiler=debian
    shift
fi
out=$(realpath -m "${1:-playground.html}")
cd "$(dirname "$0")/../.."

target=wasm32-unknown-unknown
if [ $compiler = any ] && [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    cargo build --quiet --locked --profile playground -p playground --lib --target $target
    built=${CARGO_TARGET_DIR:-target}
else
    . examples/freestanding/rustc-web.sh
    if ! has_rustc_web; then
        echo "$target is not there: rustup target add $target" >&2
        exit 3
    fi
    # The newest linker: it reads what the compiler's LLVM writes.
    lld=$(apt-cache search --names-only '^lld-[0-9]+$' | awk '{ print $1 }' | sort -V | tail -1)
    unpack_rustc_web "$lld" || exit 3
    linker=$(find "$rustc_web_folder" -path '*/bin/wasm-ld' | head -1)
    libraries=$(find "$rustc_web_folder" -name 'libLLVM*.so*' -o -name 'liblld*.so*' | xargs -n1 dirname | sort -u | paste -sd:)
    built=$rustc_web_folder/target
    LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$libraries RUSTC=$rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$built \
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker cargo build --quiet --locked --profile playground -p playground --lib \
        -Zbuild-std=core,alloc --target $target
fi

page=crates/playground/page
# A module may name only those before it.
modules="dom engine session roving blocks tree scene buddy slab pressure judge main"

# Joins the modules: each one becomes a function that returns what it exports, since a page from a file cannot load modules.
script() {
    local module
    for module in $modules; do
        awk -v module="$module" '
            BEGIN { print "const " module "_js = (() => {" }
            /^import / { sub(/^import /, "const "); sub(/ from "\.\//, " = "); sub(/\.js";/, "_js;") }
            /^export / {
                sub(/^export /, "")
                name = $0
                sub(/^(async )?(function|class|const|let) /, "", name)
                sub(/[^A-Za-z0-9_].*/, "", name)
                names = names name ", "
            }
            { print }
            END { print "return { " names "};\n})();" }' "$page/$module.js"
    done
}

module() {
    gzip -9 --no-name --stdout "$built/$target/playground/playground.wasm" | base64 --wrap=0
}

part() { # a mark in the template
    case $1 in
    style) cat "$page/style.css" ;;
    script) script ;;
    module) module ;;
    esac
}

mkdir -p "$(dirname "$out")"
while IFS= read -r line; do
    if [[ $line =~ ^(.*)(/\*)?\{\{([a-z]+)\}\}(\*/)?(.*)$ ]]; then
        printf '%s' "${BASH_REMATCH[1]%/\*}"
        part "${BASH_REMATCH[3]}"
        printf '%s\n' "${BASH_REMATCH[5]}"
    else
        printf '%s\n' "$line"
    fi
done <"$page/index.html" >"$out"
echo "$out: $(stat --format=%s "$out") bytes"
