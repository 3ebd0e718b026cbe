//! Copies the two templates of `cargo-osdk`, which are MPL-2.0, from the registry's source: the
//! linker script, and the program.

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() {
    let templates = PathBuf::from(env::var("OSDK_TEMPLATES").expect("run.sh sets OSDK_TEMPLATES"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("Cargo sets OUT_DIR"));
    let read =
        |name: &str| fs::read_to_string(templates.join(name)).expect("the template is there");

    let script = out.join("x86_64.ld");
    fs::write(&script, read("x86_64.ld.template")).expect("OUT_DIR is writable");
    println!("cargo::rustc-link-arg=-T{}", script.display());

    // The attributes of the crate must stand in `main.rs` itself.
    let program = read("main.rs.template").replace("#TARGET_NAME#", "frame_tests");
    let items: Vec<_> = program.lines().filter(|line| !line.starts_with("#![")).collect();
    fs::write(out.join("osdk.rs"), items.join("\n")).expect("OUT_DIR is writable");
    println!("cargo::rerun-if-env-changed=OSDK_TEMPLATES");
}
