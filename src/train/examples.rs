//! Training documents, read from disk when their turn comes.

use super::config::Config;
use super::evidence::count;
use super::step::Example;
use super::teacher::Teaching;
use crate::data::{Corpus, Document, Relations, Tokenizer, Unknown};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::layout::Encoded;

/// The documents of `data.train`: memory does not grow with what they hold.
pub struct Examples {
    corpus: Corpus,
    tokenizer: Tokenizer,
    relations: Relations,
    unknown: Unknown,
    teaching: Option<Teaching>,
    /// Relations of one pair that a teacher may predict.
    top_k: usize,
    /// Labels left out because the inventory does not have their relation.
    pub skipped: usize,
}

impl Examples {
    /// Reads every document once: what is wrong with one ends the run before it begins.
    pub fn open(
        config: &Config,
        tokenizer: Tokenizer,
        relations: Relations,
        unknown: Unknown,
        top_k: usize,
        device: &Device,
    ) -> Result<Self> {
        let (mut skipped, mut evidence) = (0, 0);
        let section = config.distillation.as_ref();
        // A teacher that has gone through all documents has encoded them.
        let encoded = section.is_some_and(|section| section.logits.is_some());
        let corpus = Corpus::open(&config.data.train, |document| {
            if document.labels.is_none() && section.is_none() {
                let what = format!("{:?} has no labels", crate::text::one_line(&document.id));
                return Err(Error::data("E-LABEL", what).fix("[distillation], whose teacher labels documents without"));
            }
            let (labels, unknown) = relations.encode(document, unknown)?;
            skipped += unknown;
            evidence += count(&labels);
            if encoded { Ok(()) } else { tokenizer.encode(document).map(drop) }
        })?;
        if corpus.is_empty() {
            return Err(
                Error::data("E-LABEL", "data.train holds no document").fix("name files of documents with labels")
            );
        }
        let weight = config.objective.evidence;
        if weight > 0.0 && evidence == 0 {
            let what = format!("objective.evidence is {weight}, but no label of data.train names an evidence sentence");
            return Err(Error::data("E-LABEL", what).fix("objective.evidence = 0, or labels with `evidence`"));
        }
        let teaching = section.map(|section| Teaching::open(section, &corpus, &relations, device)).transpose()?;
        Ok(Examples { corpus, tokenizer, relations, unknown, teaching, top_k, skipped })
    }

    /// Of all documents' bytes, in hexadecimal digits.
    pub fn hash(&self) -> &str {
        self.corpus.hash()
    }
    pub fn len(&self) -> usize {
        self.corpus.len()
    }
    pub fn is_empty(&self) -> bool {
        self.corpus.is_empty()
    }

    /// Documents number `which`.
    pub fn read(&self, which: &[usize]) -> Result<Vec<Example>> {
        let documents: Vec<Document> = which.iter().map(|&i| self.corpus.document(i)).collect::<Result<_>>()?;
        let mut examples: Vec<Example> =
            documents.iter().map(|document| self.example(document)).collect::<Result<_>>()?;
        let Some(teaching) = &self.teaching else { return Ok(examples) };
        let encoded: Vec<&Encoded> = examples.iter().map(|example| &example.encoded).collect();
        let logits = teaching.logits(which, &encoded)?;
        for ((example, document), logits) in examples.iter_mut().zip(&documents).zip(logits) {
            if teaching.labels(document.labels.is_some()) {
                let (pairs, entities) = (&document.pairs, document.entities.len());
                example.labels = teaching.predicted(&logits, pairs, entities, &example.labels, self.top_k);
            }
            example.teacher = logits;
        }
        Ok(examples)
    }

    fn example(&self, document: &Document) -> Result<Example> {
        let (labels, skipped) = self.relations.encode(document, self.unknown)?;
        let encoded = self.tokenizer.encode(document)?;
        Ok(Example { encoded, labels, unknown_gold: skipped, teacher: Vec::new() })
    }
}
