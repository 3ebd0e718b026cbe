//! The operating system: its errors, time, mappings of memory, files of `/proc`, filters of system
//! calls, and the loaded library.

pub(crate) mod clock;
pub(crate) mod keep_loaded;
pub(crate) mod mapping;
pub(crate) mod os_error;
pub(crate) mod proc_file;
pub(crate) mod seccomp;
