//! Files that appear whole or not at all: temporary sibling, fsync, rename, fsync of the directory.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Written beside `target` and renamed onto it by [`AtomicFile::commit`]; dropped before that, it
/// leaves nothing behind.
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    out: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// For `target`, or the file that it links to. A file that is there gives its permissions to the new one.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = links(target.as_ref()).pop().unwrap_or_default();
        let temporary = temporary_sibling(&target)?;
        let _ = fs::remove_file(&temporary); // left by a killed process of the same number
        let file = File::create_new(&temporary).map_err(|e| Error::io(&temporary, e))?;
        if let Ok(about) = target.metadata() {
            file.set_permissions(about.permissions()).map_err(|e| Error::io(&temporary, e))?;
        }
        Ok(AtomicFile { target, temporary, out: Some(BufWriter::new(file)) })
    }

    /// The file that is written until then.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    pub fn commit(mut self) -> Result<()> {
        if let Some(out) = self.out.take() {
            let file = out.into_inner().map_err(|e| Error::io(&self.temporary, e.error()))?;
            file.sync_all().map_err(|e| Error::io(&self.temporary, e))?;
        }
        fs::rename(&self.temporary, &self.target).map_err(|e| Error::io(&self.target, e))?;
        sync_directory(&parent_of(&self.target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.as_mut().map_or(Err(io::ErrorKind::NotConnected.into()), |out| out.write(bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.flush())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary); // gone already after a commit
    }
}

/// A path and, as long as that is a link, what it links to: the last is where a file is written.
pub fn links(path: &Path) -> Vec<PathBuf> {
    let mut chain = vec![path.to_path_buf()];
    while let Some(next) = chain.last().and_then(|last| Some(last.parent()?.join(last.read_link().ok()?))) {
        if chain.len() > 40 {
            break; // a circle: opening it says so
        }
        chain.push(next);
    }
    chain
}

/// Replaces the file at `path` by `bytes`, atomically.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(&path)?;
    file.write_all(bytes).map_err(|e| Error::io(&path, e))?;
    file.commit()
}

/// `.NAME.tmp-PID` beside `target`.
pub(super) fn temporary_sibling(target: &Path) -> Result<PathBuf> {
    hidden_sibling(target, "tmp")
}

pub(super) fn hidden_sibling(target: &Path, what: &str) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| Error::io(target, "not a name that can be written"))?;
    Ok(target.with_file_name(format!(".{}.{what}-{}", name.to_string_lossy(), std::process::id())))
}

/// The directory of `path`; `.` for a bare name.
pub(super) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.into(),
        _ => PathBuf::from("."),
    }
}

/// Makes the names inside `dir` durable: without it a power cut may undo a rename.
pub(super) fn sync_directory(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io(dir, e))
}
