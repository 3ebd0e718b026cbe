//! Output files. Every file that a command writes goes through [`OutputFile`].
//!
//! # Concepts
//! The output is written to a *temporary file* in the folder of its *destination*. Its name is
//! unique, and it is opened with `O_EXCL` and `O_NOFOLLOW`. [`OutputFile::commit`] syncs it and
//! renames it to the destination. So the destination holds the old content or the whole new one,
//! never a part.
//!
//! A command opens all its outputs before it begins its work: an output that cannot be written
//! costs no work.
//!
//! # Rules
//! 1. A symbolic link at the destination is refused, not followed. Links in `/dev` and `/proc`
//!    (`/dev/stdout`) are the system's and are followed.
//! 2. A device, a pipe or a socket is written directly.
//! 3. A recording is replaced only with [`Overwrite::Anything`], and so is a file without write
//!    permission.
//! 4. Temporary files are removed when the output is dropped, and by [`remove_temporaries`], which
//!    the program calls when a signal ends it.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::input_error::{InputError, Mismatch};
use crate::recording;

/// Temporary names that are tried: other programs may have taken some.
const ATTEMPTS: u32 = 1000;

/// Temporary files that exist, and the destinations of all open outputs.
static OPEN: Mutex<Vec<Open>> = Mutex::new(Vec::new());

/// An output that was opened and not yet committed.
struct Open {
    temporary: PathBuf,
    destination: PathBuf,
}

/// Which existing files an output may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// All files but recordings and files without write permission.
    NoRecordings,
    /// All files.
    Anything,
}

/// An open output.
#[derive(Debug)]
pub struct OutputFile {
    destination: PathBuf,
    file: File,
    /// `None` where the output is written directly, and once it is in its place.
    temporary: Option<PathBuf>,
}

impl OutputFile {
    /// Opens an output that will be at `destination`.
    ///
    /// # Errors
    /// A destination that cannot be written, or that must not be by the rules of this module.
    pub fn open(destination: &Path, overwrite: Overwrite) -> Result<Self, InputError> {
        let wrong = |mismatch: Mismatch| mismatch.in_file(&destination.to_string_lossy());
        let opened = match check(destination, overwrite).map_err(wrong)? {
            Target::Direct(file) => {
                return Ok(Self { destination: destination.to_owned(), file, temporary: None });
            }
            Target::Old(permissions) => create(destination, Some(permissions)),
            Target::New => create(destination, None),
        };
        let (temporary, file) = opened.map_err(wrong)?;
        Ok(Self { destination: destination.to_owned(), file, temporary: Some(temporary) })
    }

    /// Moves the output to its destination.
    ///
    /// # Errors
    /// A disk that is full, or a folder that changed. The old file then stays.
    pub fn commit(mut self) -> Result<(), InputError> {
        self.put_in_place().map_err(|error| self.unwritable(&error))
    }

    /// Writes all of `text` and moves the output to its destination.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn write_and_commit(mut self, text: &str) -> Result<(), InputError> {
        self.file.write_all(text.as_bytes()).map_err(|error| self.unwritable(&error))?;
        self.commit()
    }

    /// Returns the error of an output that takes no more.
    pub fn unwritable(&self, error: &io::Error) -> InputError {
        unwritable(error).in_file(&self.destination.to_string_lossy())
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        let Some(temporary) = &self.temporary else { return self.file.flush() };
        self.file.sync_all()?;
        // The lock is held, so that a signal finds the file either temporary or in its place.
        let mut open = lock();
        fs::rename(temporary, &self.destination)?;
        open.retain(|other| other.temporary != *temporary);
        self.temporary = None;
        // Makes the new name durable where the file system can; the content is in any case.
        let _ = File::open(folder_of(&self.destination)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let mut open = lock();
            // A failure to remove it has no reader any more.
            let _ = fs::remove_file(temporary);
            open.retain(|other| other.temporary != *temporary);
        }
    }
}

/// A folder that outputs are written into, one file for each name.
#[derive(Debug)]
pub struct OutputFolder {
    folder: PathBuf,
    extension: &'static str,
    overwrite: Overwrite,
}

impl OutputFolder {
    /// Creates the folder where it is missing, and checks that a file can be written in it under
    /// each of `names`, with `extension`.
    ///
    /// # Errors
    /// A folder that cannot be made or written, or a file that must not be replaced.
    pub fn open<'n>(
        folder: &Path,
        names: impl IntoIterator<Item = &'n str>,
        extension: &'static str,
        overwrite: Overwrite,
    ) -> Result<Self, InputError> {
        fs::create_dir_all(folder).map_err(|error| {
            Mismatch::new("a folder that can be made", error.to_string())
                .in_file(&folder.to_string_lossy())
        })?;
        let opened = Self { folder: folder.to_owned(), extension, overwrite };
        for name in names {
            let path = opened.path(name);
            let checked = check(&path, overwrite);
            checked.map_err(|mismatch| mismatch.in_file(&path.to_string_lossy()))?;
        }
        // Shows whether the folder takes files at all.
        drop(OutputFile::open(&opened.path("kmem-output"), overwrite)?);
        Ok(opened)
    }

    /// Writes the file of `name`.
    ///
    /// # Errors
    /// As [`OutputFile::open`] and [`OutputFile::commit`].
    pub fn write(&self, name: &str, text: &str) -> Result<(), InputError> {
        OutputFile::open(&self.path(name), self.overwrite)?.write_and_commit(text)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{}", self.extension))
    }
}

/// Removes the temporary files of all open outputs, and prevents new ones: the program ends.
///
/// Blocks until outputs that are being moved to their destination are there. Outputs that are
/// opened or moved later wait forever.
pub fn remove_temporaries() {
    let mut open = lock();
    for Open { temporary, .. } in open.drain(..) {
        // A failure has no reader any more.
        let _ = fs::remove_file(temporary);
    }
    std::mem::forget(open);
}

/// The lock of `OPEN`. A list that a panic left is still right: each change is one call.
fn lock() -> MutexGuard<'static, Vec<Open>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kind of file at a destination.
enum Target {
    /// Nothing.
    New,
    /// A file that will be replaced.
    Old(Permissions),
    /// A device, a pipe or a socket, open for writing.
    Direct(File),
}

/// Finds out what is at `destination`, and whether it may be written.
fn check(destination: &Path, overwrite: Overwrite) -> Result<Target, Mismatch> {
    let found = |found: &str| Mismatch::new("a file that can be written", found);
    if destination.file_name().is_none() {
        return Err(found("a folder"));
    }
    if lock().iter().any(|open| open.destination == absolute(destination)) {
        return Err(Mismatch::new("a file for each output", "the file of another output"));
    }
    let about = match destination.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Target::New),
        about => about.map_err(|error| unwritable(&error))?,
    };
    if about.is_symlink() {
        return match is_of_system(destination) {
            true => open_directly(destination).map(Target::Direct),
            false => Err(found("a symbolic link, which is not followed")),
        };
    }
    if about.is_dir() {
        return Err(found("a folder"));
    }
    if is_special(&about) {
        return open_directly(destination).map(Target::Direct);
    }
    if overwrite == Overwrite::NoRecordings {
        if let Some(kind) = recording::kind(destination) {
            return Err(found(&format!("{kind}, which stays as it is without --force")));
        }
        if about.permissions().readonly() {
            return Err(found("a read-only file, which stays as it is without --force"));
        }
    }
    Ok(Target::Old(about.permissions()))
}

fn is_special(about: &Metadata) -> bool {
    let kind = about.file_type();
    kind.is_char_device() || kind.is_block_device() || kind.is_fifo() || kind.is_socket()
}

/// Whether a link is one of those that the system makes for open files, such as `/dev/stdout`.
fn is_of_system(link: &Path) -> bool {
    let folder = folder_of(link).canonicalize();
    folder.is_ok_and(|folder| folder == Path::new("/dev") || folder.starts_with("/proc"))
}

/// Opens a device, a pipe, or what a link of the system stands for.
fn open_directly(path: &Path) -> Result<File, Mismatch> {
    use std::os::fd::AsFd;
    // Our own outputs may be files: an opened copy would begin at their start once more.
    let own = match path.to_str() {
        Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => {
            io::stdout().as_fd().try_clone_to_owned().map(File::from)
        }
        Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => {
            io::stderr().as_fd().try_clone_to_owned().map(File::from)
        }
        _ => OpenOptions::new().write(true).open(path),
    };
    own.map_err(|error| unwritable(&error))
}

/// Creates a temporary file for `destination`, with the permissions of the file that it replaces.
fn create(
    destination: &Path,
    permissions: Option<Permissions>,
) -> Result<(PathBuf, File), Mismatch> {
    let process = std::process::id();
    // The lock is held, so that a signal finds each file that exists.
    let mut open = lock();
    for number in 0..ATTEMPTS {
        let temporary = folder_of(destination).join(format!(".kmem-{process}-{number}.tmp"));
        let mut options = OpenOptions::new();
        // `create_new` is O_CREAT and O_EXCL.
        options.write(true).create_new(true).custom_flags(libc::O_NOFOLLOW);
        match options.open(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(unwritable(&error)),
            Ok(file) => {
                open.push(Open {
                    temporary: temporary.clone(),
                    destination: absolute(destination),
                });
                if let Some(permissions) = permissions {
                    // The content matters more than its permissions.
                    let _ = file.set_permissions(permissions);
                }
                return Ok((temporary, file));
            }
        }
    }
    Err(Mismatch::new("a free name for a temporary file", "none"))
}

fn unwritable(error: &io::Error) -> Mismatch {
    Mismatch::new("a file that can be written", error.to_string())
}

/// Returns the folder of a file.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Returns one name for all names of a file.
fn absolute(path: &Path) -> PathBuf {
    let folder = folder_of(path).canonicalize().unwrap_or_else(|_| folder_of(path).to_owned());
    folder.join(path.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_leaves_no_temporary_file() {
        let folder = std::env::temp_dir().join(format!("kmem-panic-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("there is room");
        let destination = folder.join("out");
        let panicked = std::panic::catch_unwind(|| {
            let _output = OutputFile::open(&destination, Overwrite::NoRecordings);
            assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 1, "a temporary one");
            panic!("in the middle of the work");
        });
        assert!(panicked.is_err());
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0);
        fs::remove_dir(&folder).expect("it is empty");
    }
}
