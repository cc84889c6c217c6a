//! Documents that stay on disk: one is read when it is asked for, in any order.

use super::frames::Position;
use super::{Document, Format, Options, Unit, open};
use crate::error::{Error, Result};
use crate::text::hex;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Documents of some files, in their order. Holds 48 bytes a document, whatever its length.
pub struct Corpus {
    files: Vec<Source>,
    places: Vec<Place>,
    hash: String,
}

struct Source {
    path: PathBuf,
    file: File,
    format: Format,
    /// Of PubTator, which cannot say that a document has no relation: others of the file have some, so it has none.
    annotated: bool,
}

/// Where a document lies.
struct Place {
    position: Position,
    /// The first bytes of its hash: a file may change while it is in use.
    hash: u64,
    length: u32,
    entities: u32,
    source: u32,
}

impl Source {
    fn completed(&self, mut document: Document) -> Document {
        if self.annotated {
            document.labels.get_or_insert_default();
        }
        document
    }
}

/// Whether the file is PubTator with relations: then a document without any was read by annotators, too.
pub fn annotated(path: &Path, format: Format) -> Result<bool> {
    let labelled = |document: Result<Document>| document.is_ok_and(|document| document.labels.is_some());
    Ok(format == Format::Pubtator && open(path, Options::default())?.any(labelled))
}

fn hash_of(bytes: &[u8]) -> u64 {
    Sha256::digest(bytes).iter().take(8).fold(0, |hash, &byte| hash << 8 | u64::from(byte))
}

impl Corpus {
    /// Reads `paths` once, each document through `check`. Errors: those of [`open`], of a document, and of `check`;
    /// E-IO for standard input, which cannot be read again.
    pub fn open(paths: &[PathBuf], mut check: impl FnMut(&Document) -> Result<()>) -> Result<Self> {
        let mut corpus = Corpus { files: Vec::new(), places: Vec::new(), hash: String::new() };
        let mut all = Sha256::new();
        for path in paths {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            if !file.metadata().is_ok_and(|about| about.is_file()) {
                return Err(Error::io(path, "not a regular file: training reads each document many times"));
            }
            let mut documents = open(path, Options::default())?;
            let source = corpus.files.len() as u32;
            let (format, annotated) = (documents.format(), annotated(path, documents.format())?);
            corpus.files.push(Source { path: path.clone(), file, format, annotated });
            while let Some(document) = documents.next() {
                let document = corpus.files[source as usize].completed(document?);
                check(&document).map_err(|e| e.context(path.display()))?;
                let (position, length) = (documents.latest().position, documents.latest().length as u32);
                let mut place = Place { position, hash: 0, length, entities: document.entities.len() as u32, source };
                place.hash = hash_of(&corpus.bytes(&place)?);
                all.update(place.hash.to_le_bytes());
                corpus.places.push(place);
            }
        }
        corpus.hash = hex(&all.finalize());
        Ok(corpus)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
    /// Entities of document `i`.
    pub fn entities(&self, i: usize) -> usize {
        self.places[i].entities as usize
    }
    /// Of all documents' bytes, in hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }
    /// The file that document `i` stands in.
    pub fn path(&self, i: usize) -> &Path {
        &self.files[self.places[i].source as usize].path
    }

    /// Document `i`, read again. Errors: E-IO where its file has changed since.
    pub fn document(&self, i: usize) -> Result<Document> {
        let place = &self.places[i];
        let bytes = self.bytes(place)?;
        if hash_of(&bytes) != place.hash {
            let path = &self.files[place.source as usize].path;
            return Err(Error::io(path, format!("document {} changed while it was in use", place.position.index)));
        }
        let source = &self.files[place.source as usize];
        source.format.parse(&bytes, place.position, Unit::Char).map(|document| source.completed(document))
    }

    fn bytes(&self, place: &Place) -> Result<Vec<u8>> {
        let Source { path, file, .. } = &self.files[place.source as usize];
        let mut bytes = vec![0; place.length as usize];
        file.read_exact_at(&mut bytes, place.position.offset).map_err(|e| Error::io(path, e))?;
        Ok(bytes)
    }
}
