//! Programs and libraries in C, for surroundings that a Rust program cannot make: code that runs
//! before all constructors, functions that replace those of the C library, filters of system calls.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::End::Well;
use crate::calls::{free, realloc, usable_size};
use crate::{Check, library};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "keys_made_before_the_first_request", run: keys, ends: Well },
    Check { name: "replaced_functions_may_allocate", run: replaced, ends: Well },
    Check { name: "fork_handlers_before_ours_may_allocate", run: handlers, ends: Well },
    Check { name: "fork_handlers_of_libraries_may_allocate", run: library_handlers, ends: Well },
    Check { name: "a_signal_handler_may_fork_during_a_fork", run: forking_signal, ends: Well },
    Check { name: "a_sandbox_kills_at_no_call", run: sandbox, ends: Well },
    Check { name: "calls_that_glibc_does_not_make_may_kill", run: killed_calls, ends: Well },
    Check { name: "calls_may_be_refused", run: refused_calls, ends: Well },
    Check { name: "memory_of_the_c_library_may_come_here", run: plugin, ends: Well },
    Check { name: "real_time_threads_wait_for_others", run: real_time, ends: Well },
];

/// Compiles `source`; returns the path of the result. Each check has a folder of its own.
fn compile(source: &str, name: &str, options: &[&str]) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/programs");
    let folder = std::env::temp_dir().join(format!("kmalloc-programs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("room for a folder");
    let result = folder.join(name);
    let output = Command::new("cc")
        .args(["-O1", "-fno-builtin-malloc", "-pthread", "-o"])
        .arg(&result)
        .arg(sources.join(source))
        .args(options)
        .args(["-ldl"])
        .env_remove("LD_PRELOAD")
        .output()
        .expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    result
}

/// Runs a program with `preloaded` libraries; panics unless it succeeds within 100 seconds. Each
/// takes one or two on a machine that does nothing else.
fn run(program: &Path, words: &[&str], preloaded: &[&Path]) {
    let preloaded: Vec<_> = preloaded.iter().map(|path| path.to_string_lossy()).collect();
    let output = Command::new("timeout")
        .args(["-s", "KILL", "100", "env"])
        .arg(format!("LD_PRELOAD={}", preloaded.join(":")))
        .arg(program)
        .args(words)
        .env_remove("LD_PRELOAD")
        .output();
    let Output { status, stderr, .. } = output.expect("a shell command");
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{} {words:?}: {status}: {said}", program.display());
}

fn clean_up() {
    let folder = std::env::temp_dir().join(format!("kmalloc-programs-{}", std::process::id()));
    std::fs::remove_dir_all(folder).expect("made by `compile`");
}

/// Mutation that it catches: a set-up that waits for itself.
fn keys() {
    run(&compile("keys.c", "keys", &[]), &[], &[&library()]);
    clean_up();
}

/// The library with the replacements is before ours, or after it.
///
/// Mutations that it catches: options that are read outside of set-up; a thread that takes a number
/// while it takes a number.
fn replaced() {
    let hooks = compile("replaced.c", "replaced.so", &["-shared", "-fPIC"]);
    let program = compile("keys.c", "keys", &[]);
    for preloaded in [[&*hooks, &*library()], [&*library(), &*hooks]] {
        run(Path::new("/bin/echo"), &["well"], &preloaded);
        run(&program, &[], &preloaded);
    }
    clean_up();
}

/// Mutation that it catches: handlers that are registered when the library is loaded.
fn handlers() {
    run(&compile("handlers.c", "handlers", &[]), &[], &[&library()]);
    clean_up();
}

fn library_handlers() {
    let options = ["-shared", "-fPIC"];
    let handlers = compile("handlers_library.c", "libhandlers.so", &options);
    let folder = handlers.parent().expect("a folder").to_string_lossy();
    let (place, path) = (format!("-L{folder}"), format!("-Wl,-rpath,{folder}"));
    let options = ["-DLIBRARY", &*place, "-lhandlers", &*path];
    let program = compile("handlers.c", "handlers", &options);
    run(&program, &[], &[&library()]);
    run(&program, &[], &[&handlers, &library()]);
    run(&program, &[], &[&library(), &handlers]);
    clean_up();
}

/// Mutation that it catches: signals that are not blocked from the first handler to the last.
fn forking_signal() {
    run(&compile("forking_signal.c", "forking_signal", &[]), &[], &[&library()]);
    clean_up();
}

fn sandbox() {
    run(&compile("sandbox.c", "sandbox", &[]), &["allow"], &[&library()]);
    clean_up();
}

fn killed_calls() {
    let program = compile("sandbox.c", "sandbox", &[]);
    let calls = [libc::SYS_membarrier, libc::SYS_mincore, libc::SYS_sched_yield, libc::SYS_prctl];
    for call in calls {
        run(&program, &["kill", &call.to_string()], &[&library()]);
    }
    clean_up();
}

fn refused_calls() {
    let program = compile("sandbox.c", "sandbox", &[]);
    let calls = [
        (libc::SYS_membarrier, libc::EPERM),
        (libc::SYS_membarrier, libc::ENOSYS),
        (libc::SYS_clock_gettime, libc::EPERM),
        (libc::SYS_mremap, libc::EPERM),
        (libc::SYS_sched_yield, libc::ENOSYS),
    ];
    for (call, error) in calls {
        run(&program, &["refuse", &call.to_string(), &error.to_string()], &[&library()]);
    }
    clean_up();
}

/// A plugin whose `malloc` is the C library's: its blocks come to `free`, `realloc` and
/// `malloc_usable_size`.
fn plugin() {
    let plugin = compile("plugin.c", "plugin.so", &["-shared", "-fPIC"]);
    let name = CString::new(plugin.into_os_string().into_encoded_bytes()).expect("no zero");
    // SAFETY: it has no initialisers.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_DEEPBIND) };
    assert!(!handle.is_null());
    let find = |name: &std::ffi::CStr| {
        // SAFETY: looks a name up.
        let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
        assert!(!found.is_null());
        found
    };
    // SAFETY: the function of this name has this type.
    let get: extern "C" fn(usize) -> *mut u8 = unsafe { std::mem::transmute(find(c"get")) };
    // SAFETY: the function of this name has this type.
    let put: extern "C" fn(*mut u8) = unsafe { std::mem::transmute(find(c"put")) };
    for bytes in [64, 5000, 300_000] {
        put(get(bytes));
        free(get(bytes));
        let start = get(bytes);
        assert!(usable_size(start) >= bytes);
        let larger = realloc(start, 2 * bytes);
        // SAFETY: at least 64 bytes, which begin with what the plugin wrote.
        assert_eq!(unsafe { larger.cast::<[u8; 6]>().read() }, *b"plugin");
        free(larger);
        assert!(realloc(get(bytes), 0).is_null());
    }
    clean_up();
}

fn real_time() {
    run(&compile("realtime.c", "realtime", &[]), &[], &[&library()]);
    clean_up();
}
