//! `docre check`: what files of documents hold, and every fault with its place.

use super::setup::InputArgs;
use crate::data::{self, Document, Relations};
use crate::error::{Error, Kind, Result};
use crate::text::clip;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;

/// Check files of documents: counts, oddities, and every fault with its place
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre check dev.json
  docre check --train train.json --dev dev.json --relations rel2id.json
  docre check --train Train.PubTator --dev Dev.PubTator
  docre check --json documents.jsonl | jq .files[0].documents

Exit codes: 0 no fault, 3 faults found, 6 a file cannot be read")]
pub struct CheckArgs {
    /// Files of documents in any format that docre reads; `-` reads standard input
    #[arg(required_unless_present_any = ["train", "dev"], value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A training file: no document of it may stand in --dev
    #[arg(long, value_name = "FILE")]
    pub train: Vec<PathBuf>,
    /// A development or test file
    #[arg(long, value_name = "FILE")]
    pub dev: Vec<PathBuf>,
    /// rel2id.json or relations.json: a label with another relation is a fault
    #[arg(long, value_name = "FILE")]
    pub relations: Option<PathBuf>,
    #[command(flatten)]
    pub input: InputArgs,
    /// Faults to print of each file; all are counted
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub max_faults: usize,
    /// Write one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Exit code where faults were found: bad input data.
const FAULTS: u8 = 3;

#[derive(Debug, Default, Serialize)]
struct Findings {
    files: Vec<FileFindings>,
    /// Faults of all files, overlaps between train and dev included.
    faults: usize,
}

#[derive(Debug, Default, Serialize)]
struct FileFindings {
    file: String,
    format: &'static str,
    documents: usize,
    unlabelled: usize,
    totals: Sizes,
    largest: Sizes,
    /// Largest number of relations on one ordered pair of entities.
    most_relations_on_a_pair: usize,
    relations: BTreeMap<String, usize>,
    types: BTreeMap<String, usize>,
    notes: Notes,
    /// What the reader passed over, by reason.
    left_out: BTreeMap<&'static str, usize>,
    fault_count: usize,
    /// The first faults, at most `--max-faults`.
    faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Sizes {
    tokens: usize,
    sentences: usize,
    entities: usize,
    mentions: usize,
    labels: usize,
    /// Pairs of entities that are asked about: ordered ones unless relations are undirected, candidates where there are.
    pairs: usize,
}

/// Legal, but worth knowing: counts.
#[derive(Debug, Default, Serialize)]
struct Notes {
    documents_with_overlapping_mentions: usize,
    mentions_named_unlike_their_tokens: usize,
    mentions_typed_unlike_their_entity: usize,
    entities_without_mention: usize,
    entities_with_two_mentions_at_one_start: usize,
    labels_without_evidence: usize,
    labels_of_an_entity_with_itself: usize,
    labels_given_twice: usize,
    documents_without_entities: usize,
    documents_with_candidate_pairs: usize,
    documents_with_undirected_relations: usize,
}

#[derive(Debug, Serialize)]
struct Fault {
    code: &'static str,
    path: Option<String>,
    msg: String,
}

/// What a file is to the others: faults between files depend on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Any,
    Train,
    Dev,
}

/// First place of every id (in DocRED's form: title), by a digest of 16 bytes: 25 to 60 bytes a document, whatever the ids.
type Ids = HashMap<[u8; 16], (u16, u32, Role)>;

/// Distinct names that are counted apart; the rest share one line.
const MOST_NAMES: usize = 10_000;

/// Runs the command and gives its exit code. Errors: E-IO for a file that cannot be read.
pub fn run(args: &CheckArgs) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    run_to(args, &mut out)
}

/// As `run`, with the report on `out`.
pub fn run_to(args: &CheckArgs, out: &mut impl Write) -> Result<u8> {
    let relations = args.relations.as_deref().map(Relations::read_any).transpose()?;
    let mut findings = Findings::default();
    let mut ids = Ids::new();
    for (role, path) in inputs(args) {
        let number = findings.files.len();
        let mut documents = data::open(path, args.input.options())?;
        let mut file = FileFindings { file: path.display().to_string(), ..FileFindings::default() };
        file.format = documents.format().name();
        while let Some(document) = documents.next() {
            let index = documents.latest().position.index;
            match document {
                Err(error) if error.kind() == Kind::Io => return Err(error),
                Err(error) => file.fault(args, &error),
                Ok(document) => {
                    file.take(&document);
                    let wrong = relations.as_ref().and_then(|relations| unknown_relation(&document, relations));
                    let here = (number as u16, index as u32, role);
                    let again = repeated(&mut ids, &document, here, &findings.files);
                    for error in wrong.into_iter().chain(again) {
                        let what = format!("{}: document {index} {:?}", file.file, clip(&document.id, 60));
                        file.fault(args, &error.context(what));
                    }
                }
            }
        }
        findings.faults += file.fault_count;
        findings.files.push(file);
    }
    print(args, &findings, out).map_err(|e| Error::io("output", e))?;
    Ok(if findings.faults > 0 { FAULTS } else { 0 })
}

fn inputs(args: &CheckArgs) -> impl Iterator<Item = (Role, &PathBuf)> {
    let with = |role| move |path| (role, path);
    let plain = args.files.iter().map(with(Role::Any));
    plain.chain(args.train.iter().map(with(Role::Train))).chain(args.dev.iter().map(with(Role::Dev)))
}

/// The first label whose relation the inventory lacks, and how many there are.
fn unknown_relation(document: &Document, relations: &Relations) -> Option<Error> {
    let unknown = |(_, label): &(usize, &data::Label)| relations.id(&label.relation).is_none();
    let mut wrong = document.gold().iter().enumerate().filter(unknown);
    let (l, label) = wrong.next()?;
    let error = relations.require(&label.relation).err()?.at(format!("$.labels[{l}].r"));
    match wrong.count() {
        0 => Some(error),
        more => Some(error.context(format!("{} labels with unknown relations, the first", more + 1))),
    }
}

/// An id that stood before: in this file, or on the other side of train and dev, or in another file.
fn repeated(ids: &mut Ids, document: &Document, here: (u16, u32, Role), earlier: &[FileFindings]) -> Option<Error> {
    let mut key = [0; 16];
    key.copy_from_slice(&Sha256::digest(document.id.as_bytes())[..16]);
    let Some(&(file, index, role)) = ids.get(&key) else {
        ids.insert(key, here);
        return None;
    };
    let place = earlier.get(usize::from(file)).map_or("this file", |file| file.file.as_str());
    let what = match (role, here.2) {
        (Role::Train, Role::Dev) => format!("also in the training data: document {index} of {place}"),
        _ => format!("its name stands before: document {index} of {place}"),
    };
    Some(Error::data("E-TITLE", what).fix("take one of them out"))
}

impl FileFindings {
    fn fault(&mut self, args: &CheckArgs, error: &Error) {
        self.fault_count += 1;
        if self.faults.len() < args.max_faults {
            let path = error.place().map(str::to_string);
            self.faults.push(Fault { code: error.code(), path, msg: error.what().to_string() });
        }
    }

    fn take(&mut self, document: &Document) {
        self.documents += 1;
        self.unlabelled += usize::from(document.labels.is_none());
        let sizes = Sizes {
            tokens: document.tokens.len(),
            sentences: document.sentences.len(),
            entities: document.entities.len(),
            mentions: document.entities.iter().map(|e| e.mentions.len()).sum(),
            labels: document.gold().len(),
            pairs: document.pairs.count(document.entities.len()),
        };
        self.totals.each(&sizes, |sum, n| *sum += n);
        self.largest.each(&sizes, |most, n| *most = n.max(*most));
        document.left_out.iter().for_each(|(&why, n)| *self.left_out.entry(why).or_default() += n);
        self.notes.documents_with_candidate_pairs += usize::from(document.pairs.candidates().is_some());
        self.notes.documents_with_undirected_relations += usize::from(document.pairs.undirected);
        self.take_entities(document);
        self.take_labels(document);
    }

    fn take_entities(&mut self, document: &Document) {
        let notes = &mut self.notes;
        notes.documents_without_entities += usize::from(document.entities.is_empty());
        let mut spans = Vec::new();
        for entity in &document.entities {
            count_name(&mut self.types, &entity.kind);
            notes.entities_without_mention += usize::from(entity.mentions.is_empty());
            let mut starts: Vec<usize> = entity.mentions.iter().map(|m| m.tokens.start).collect();
            starts.sort_unstable();
            let twice = starts.windows(2).any(|pair| pair[0] == pair[1]);
            notes.entities_with_two_mentions_at_one_start += usize::from(twice);
            for mention in &entity.mentions {
                spans.push(mention.tokens);
                notes.mentions_typed_unlike_their_entity += usize::from(mention.kind.is_some());
                // A text's own slice names the mention as well as its tokens do.
                let unlike = mention.chars.is_none() && mention.name != document.surface(mention);
                notes.mentions_named_unlike_their_tokens += usize::from(unlike);
            }
        }
        spans.sort_unstable();
        let overlap = spans.windows(2).any(|pair| pair[0].overlaps(&pair[1]));
        notes.documents_with_overlapping_mentions += usize::from(overlap);
    }

    fn take_labels(&mut self, document: &Document) {
        let mut pairs: HashMap<(usize, usize), Vec<&str>> = HashMap::new();
        for label in document.gold() {
            self.notes.labels_without_evidence += usize::from(label.evidence.is_empty());
            self.notes.labels_of_an_entity_with_itself += usize::from(label.head == label.tail);
            let on_pair = pairs.entry(document.pairs.canonical(label.head, label.tail)).or_default();
            if on_pair.contains(&label.relation.as_str()) {
                self.notes.labels_given_twice += 1;
                continue;
            }
            on_pair.push(&label.relation);
            count_name(&mut self.relations, &label.relation);
        }
        let most = pairs.values().map(Vec::len).max().unwrap_or(0);
        self.most_relations_on_a_pair = self.most_relations_on_a_pair.max(most);
    }
}

fn count_name(counts: &mut BTreeMap<String, usize>, name: &str) {
    let mut name = clip(name, 40);
    if counts.len() >= MOST_NAMES && !counts.contains_key(&name) {
        name = "(others)".to_string();
    }
    *counts.entry(name).or_default() += 1;
}

impl Sizes {
    fn each(&mut self, other: &Sizes, join: impl Fn(&mut usize, usize)) {
        join(&mut self.tokens, other.tokens);
        join(&mut self.sentences, other.sentences);
        join(&mut self.entities, other.entities);
        join(&mut self.mentions, other.mentions);
        join(&mut self.labels, other.labels);
        join(&mut self.pairs, other.pairs);
    }
}

fn print(args: &CheckArgs, findings: &Findings, out: &mut impl Write) -> std::io::Result<()> {
    if args.json {
        serde_json::to_writer_pretty(&mut *out, findings)?;
        writeln!(out)?;
        return out.flush();
    }
    for file in &findings.files {
        print_file(file, out)?;
    }
    match findings.faults {
        0 => writeln!(out, "no faults")?,
        n => writeln!(out, "{n} faults")?,
    }
    out.flush()
}

fn print_file(file: &FileFindings, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{} ({}): {} documents, {} without labels", file.file, file.format, file.documents, file.unlabelled)?;
    let (all, most) = (&file.totals, &file.largest);
    let rows = [
        ("tokens", all.tokens, most.tokens),
        ("sentences", all.sentences, most.sentences),
        ("entities", all.entities, most.entities),
        ("mentions", all.mentions, most.mentions),
        ("labels", all.labels, most.labels),
        ("pairs", all.pairs, most.pairs),
    ];
    for (name, sum, most) in rows {
        let mean = sum as f64 / file.documents.max(1) as f64;
        writeln!(out, "  {name:<10} {sum:>9}   mean {mean:>8.1}   most {most:>7}")?;
    }
    writeln!(out, "  {} relations, up to {} on one pair", file.relations.len(), file.most_relations_on_a_pair)?;
    let types: Vec<String> = file.types.iter().map(|(name, n)| format!("{name:?} {n}")).collect();
    writeln!(out, "  entity types: {}", clip(&types.join(", "), 200))?;
    let notes = &file.notes;
    let notes = [
        (notes.documents_with_overlapping_mentions, "documents with overlapping mentions"),
        (notes.mentions_named_unlike_their_tokens, "mentions whose name is not their tokens (the position counts)"),
        (notes.mentions_typed_unlike_their_entity, "mentions with another type than their entity's first"),
        (notes.entities_without_mention, "entities without a mention"),
        (notes.entities_with_two_mentions_at_one_start, "entities with two mentions at one start (both are pooled)"),
        (notes.labels_without_evidence, "labels without evidence"),
        (notes.labels_of_an_entity_with_itself, "labels of an entity with itself (cannot be predicted)"),
        (notes.labels_given_twice, "labels given twice (count once)"),
        (notes.documents_without_entities, "documents without entities"),
        (notes.documents_with_candidate_pairs, "documents name their candidate pairs (others are not predicted)"),
        (
            notes.documents_with_undirected_relations,
            "documents with undirected relations (both directions are one pair)",
        ),
    ];
    for (count, what) in notes.into_iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "  note: {count} {what}")?;
    }
    for (why, count) in &file.left_out {
        writeln!(out, "  left out: {count} {why}")?;
    }
    for fault in &file.faults {
        writeln!(out, "  fault[{}] {}", fault.code, fault.msg)?;
        if let Some(path) = &fault.path {
            writeln!(out, "    at {path}")?;
        }
    }
    let hidden = file.fault_count - file.faults.len();
    if hidden > 0 {
        writeln!(out, "  and {hidden} more faults (--max-faults shows them)")?;
    }
    Ok(())
}
