//! Real data, which is not in the repository: where it is absent, a test says SKIPPED.

use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A file of the data directory (README.md, "The tree"): `$DOCRE_DATA_DIR`, or `data`, here or shared with others.
pub fn data(file: &str) -> Option<PathBuf> {
    let of_user = std::env::var_os("DOCRE_DATA_DIR").map(PathBuf::from);
    let usual = ["data", "../shared/data"].map(|dir| Path::new(ROOT).join(dir));
    let found = of_user.into_iter().chain(usual).map(|dir| dir.join(file)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: no data/{file}; DOCRE_DATA_DIR names another directory than data");
    }
    found
}

/// A directory with all-MiniLM-L6-v2 (90 MB): `make test` fetches it.
pub fn minilm() -> Option<PathBuf> {
    let found = std::env::var_os("DOCRE_MINILM_DIR").map(PathBuf::from);
    if found.is_none() {
        eprintln!("SKIPPED: set DOCRE_MINILM_DIR to a directory with all-MiniLM-L6-v2");
    }
    found
}
