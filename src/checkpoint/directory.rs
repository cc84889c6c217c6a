//! Checkpoint directories that a crash cannot break.
//!
//! A directory is written under a hidden name, each file fsynced, `MANIFEST.sha256` last, and
//! renamed into place: what is visible is complete. Readers still verify, for damage comes from
//! elsewhere too, and [`latest_complete`] falls back past what does not verify.

use super::atomic::{hidden_sibling, parent_of, sync_directory, temporary_sibling, write_atomic};
use super::shards::check_file_name;
use super::tensors::{open_regular, read_bounded};
use crate::text::{hex, one_line};
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// `# N files`, then lines `<sha256>  <file>`: `sha256sum -c MANIFEST.sha256` checks it too. The
/// count betrays a manifest that was cut off between two lines.
pub const MANIFEST: &str = "MANIFEST.sha256";
const MAX_MANIFEST: u64 = 1 << 20;

/// A directory being written; removed again unless it was published.
pub struct Staging {
    dir: PathBuf,
    digests: BTreeMap<String, String>,
}

impl Staging {
    fn create(dir: PathBuf) -> Result<Self> {
        remove(&dir)?; // left by a killed process of the same number
        fs::create_dir(&dir).map_err(|e| Error::io(&dir, e))?;
        Ok(Staging { dir, digests: BTreeMap::new() })
    }

    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_with(name, |out| out.write_all(bytes).map_err(|e| Error::io(name, e)))
    }

    /// Streams a file: `fill` writes it, its hash is taken on the way.
    pub fn write_with(&mut self, name: &str, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        check_file_name(name)?;
        if name == MANIFEST || self.digests.contains_key(name) {
            return Err(Error::io(self.dir.join(name), "written twice"));
        }
        let digest = self.write_synced(name, fill)?;
        self.digests.insert(name.into(), digest);
        Ok(())
    }

    fn write_synced(&self, name: &str, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<String> {
        let path = self.dir.join(name);
        let failed = |e: io::Error| Error::io(&path, e);
        let file = File::create_new(&path).map_err(failed)?;
        let mut out = Hashing { out: BufWriter::new(file), hash: Sha256::new() };
        fill(&mut out).map_err(|e| e.context(path.display()))?;
        let file = out.out.into_inner().map_err(|e| Error::io(&path, e.error()))?;
        file.sync_all().map_err(failed)?;
        Ok(hex(&out.hash.finalize()))
    }

    fn publish(&mut self, target: &Path) -> Result<()> {
        let lines = manifest(&self.digests);
        self.write_synced(MANIFEST, |out| out.write_all(lines.as_bytes()).map_err(|e| Error::io(MANIFEST, e)))?;
        sync_directory(&self.dir)?;
        let replaced = park(target)?;
        fs::rename(&self.dir, target).map_err(|e| Error::io(target, e))?;
        sync_directory(&parent_of(target))?;
        replaced.map_or(Ok(()), |old| remove(&old))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = remove(&self.dir); // gone already once published
    }
}

/// Writes the directory `dir` as a whole: `fill` puts the files into it. An existing directory of
/// that name is replaced; until that moment, and if `fill` fails, it stays as it was.
pub fn save_directory(dir: impl AsRef<Path>, fill: impl FnOnce(&mut Staging) -> Result<()>) -> Result<()> {
    let dir = dir.as_ref();
    fs::create_dir_all(parent_of(dir)).map_err(|e| Error::io(dir, e))?;
    let mut staging = Staging::create(temporary_sibling(dir)?)?;
    fill(&mut staging)?;
    staging.publish(dir)
}

/// Writes one more file into a finished directory, or replaces it. A manifest, if there is one, is true at every moment:
/// it forgets the old file first, and lists the new one last.
pub fn put_file(dir: impl AsRef<Path>, name: &str, bytes: &[u8]) -> Result<()> {
    let dir = dir.as_ref();
    check_file_name(name)?;
    if !dir.join(MANIFEST).exists() {
        return write_atomic(dir.join(name), bytes);
    }
    let mut listed = read_manifest(dir)?;
    if listed.remove(name).is_some() {
        write_atomic(dir.join(MANIFEST), manifest(&listed).as_bytes())?;
    }
    write_atomic(dir.join(name), bytes)?;
    listed.insert(name.into(), hex(&Sha256::digest(bytes)));
    write_atomic(dir.join(MANIFEST), manifest(&listed).as_bytes())
}

/// The text of `MANIFEST.sha256`: names and their hashes.
fn manifest(digests: &BTreeMap<String, String>) -> String {
    let lines: String = digests.iter().map(|(file, hash)| format!("{hash}  {file}\n")).collect();
    format!("# {} files\n{lines}", digests.len())
}

/// Moves what stands at `target` aside, to `.NAME.old-PID`. A directory cannot be replaced in one
/// step; killed between the two renames, [`recover`] moves it back.
fn park(target: &Path) -> Result<Option<PathBuf>> {
    if target.symlink_metadata().is_err() {
        return Ok(None);
    }
    let aside = hidden_sibling(target, "old")?;
    remove(&aside)?;
    fs::rename(target, &aside).map_err(|e| Error::io(target, e))?;
    Ok(Some(aside))
}

/// Moves back directories whose replacement was interrupted. For the owner of `run_dir`, at start.
pub fn recover(run_dir: impl AsRef<Path>) -> Result<()> {
    let run_dir = run_dir.as_ref();
    for (name, path) in entries(run_dir)? {
        let Some((target, "old", _)) = hidden_parts(&name) else { continue };
        let target = run_dir.join(target);
        if target.symlink_metadata().is_err() {
            fs::rename(&path, &target).map_err(|e| Error::io(&path, e))?;
            sync_directory(run_dir)?;
        }
    }
    Ok(())
}

/// Checks every file against the manifest; returns their names.
pub fn verify(dir: impl AsRef<Path>) -> Result<Vec<String>> {
    let dir = dir.as_ref();
    let listed = read_manifest(dir)?;
    for (name, wanted) in &listed {
        let path = dir.join(name);
        if hash_file(&path)? != *wanted {
            return Err(incomplete(&path, "differs from its hash in the manifest"));
        }
    }
    Ok(listed.into_keys().collect())
}

fn incomplete(path: &Path, why: &str) -> Error {
    Error::model("E-CHECKPOINT", format!("{}: {why}", path.display()))
        .fix("use another checkpoint, or copy this one again")
}

fn read_manifest(dir: &Path) -> Result<BTreeMap<String, String>> {
    let path = dir.join(MANIFEST);
    if !path.exists() {
        return Err(incomplete(dir, "no MANIFEST.sha256: an incomplete checkpoint"));
    }
    let bytes = read_bounded(&path, MAX_MANIFEST)?;
    let text = String::from_utf8(bytes).map_err(|_| incomplete(&path, "not text"))?;
    let (mut listed, mut promised) = (BTreeMap::new(), None);
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            promised = comment.strip_suffix(" files").and_then(|n| n.parse().ok()).or(promised);
            continue;
        }
        let (hash, name) = line.split_once("  ").ok_or_else(|| incomplete(&path, "a damaged line"))?;
        let valid = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        if !valid || check_file_name(name).is_err() {
            return Err(incomplete(&path, &format!("a damaged line: {}", one_line(line))));
        }
        listed.insert(name.to_string(), hash.to_ascii_lowercase());
    }
    if listed.is_empty() || !text.ends_with('\n') || promised.is_some_and(|n: usize| n != listed.len()) {
        return Err(incomplete(&path, "cut off"));
    }
    Ok(listed)
}

/// SHA-256 in hexadecimal digits.
pub fn hash_file(path: &Path) -> Result<String> {
    let (mut file, _) = open_regular(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io(path, e))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// `checkpoint-000500`.
pub fn checkpoint_name(step: u64) -> String {
    format!("checkpoint-{step:06}")
}

fn checkpoint_step(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("checkpoint-")?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The checkpoint to go on from, and why newer ones were passed over.
#[derive(Debug)]
pub struct Latest {
    pub dir: PathBuf,
    pub step: u64,
    pub passed_over: Vec<Error>,
}

/// The newest `checkpoint-NNNNNN` that verifies; None if there is no checkpoint at all. All of them
/// broken is an error: starting again from nothing is not for this function to decide.
pub fn latest_complete(run_dir: impl AsRef<Path>) -> Result<Option<Latest>> {
    let run_dir = run_dir.as_ref();
    if !run_dir.exists() {
        return Ok(None);
    }
    recover(run_dir)?;
    let mut passed_over = Vec::new();
    for (step, dir) in checkpoints(run_dir)? {
        match verify(&dir) {
            Ok(_) => return Ok(Some(Latest { dir, step, passed_over })),
            Err(why) => passed_over.push(why),
        }
    }
    match passed_over.into_iter().next() {
        None => Ok(None),
        Some(first) => Err(first.context("no complete checkpoint")),
    }
}

/// Removes all but the newest `keep` checkpoints, and what killed processes left behind. Not counted
/// among the `keep`: directories with files missing. Never removed: what a link in
/// `run_dir` points at. For the owner of `run_dir`, between saves.
pub fn prune(run_dir: impl AsRef<Path>, keep: usize) -> Result<()> {
    let run_dir = run_dir.as_ref();
    recover(run_dir)?;
    let linked = links(run_dir)?;
    let mut kept = 0;
    for (_, dir) in checkpoints(run_dir)? {
        if kept < keep.max(1) {
            kept += usize::from(looks_complete(&dir));
        } else if !linked.contains(&dir) {
            discard(&dir)?;
        }
    }
    for (name, path) in entries(run_dir)? {
        if hidden_parts(&name).is_some_and(|(_, _, pid)| !runs_elsewhere(pid)) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Hidden first: killed half-way, it leaves no half checkpoint in sight.
fn discard(dir: &Path) -> Result<()> {
    let hidden = temporary_sibling(dir)?;
    remove(&hidden)?;
    fs::rename(dir, &hidden).map_err(|e| Error::io(dir, e))?;
    remove(&hidden)
}

/// Without hashing: a manifest, and every file it lists.
fn looks_complete(dir: &Path) -> bool {
    read_manifest(dir).is_ok_and(|listed| listed.keys().all(|name| dir.join(name).is_file()))
}

/// Newest first.
fn checkpoints(run_dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found: Vec<(u64, PathBuf)> = entries(run_dir)?
        .into_iter()
        .filter_map(|(name, path)| Some((checkpoint_step(&name)?, path)))
        .filter(|(_, path)| path.is_dir() && !path.is_symlink())
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

fn links(run_dir: &Path) -> Result<Vec<PathBuf>> {
    let targets = entries(run_dir)?.into_iter().filter_map(|(_, path)| fs::read_link(path).ok());
    Ok(targets.map(|target| run_dir.join(target)).collect())
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let listing = fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    Ok(found)
}

/// `.best.old-71` -> (`best`, `old`, 71).
fn hidden_parts(name: &str) -> Option<(&str, &str, u32)> {
    let (rest, pid) = name.strip_prefix('.')?.rsplit_once('-')?;
    let (target, what) = rest.rsplit_once('.')?;
    let ours = matches!(what, "tmp" | "old") && !target.is_empty();
    Some((target, what, pid.parse().ok()?)).filter(|_| ours)
}

/// Whether another living process has this number. Where there is no /proc, no: a run directory has
/// one owner.
fn runs_elsewhere(pid: u32) -> bool {
    pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists()
}

fn remove(path: &Path) -> Result<()> {
    let Ok(about) = path.symlink_metadata() else { return Ok(()) };
    let removed = if about.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|e| Error::io(path, e))
}

struct Hashing {
    out: BufWriter<File>,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
