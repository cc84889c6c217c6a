//! Gold documents made by hand.

use docre::data::{Document, Entity, Label, Mention, Span};
use docre::layout::Segments;

/// Entities as lists of (sentence, name); every sentence has ten tokens.
pub fn document(title: &str, entities: &[&[(usize, &str)]], labels: &[(usize, usize, &str)]) -> Document {
    let mention = |&(s, name): &(usize, &str)| Mention {
        tokens: Span::new(10 * s, 10 * s + 1),
        name: name.to_string(),
        ..Mention::default()
    };
    let entity = |(e, mentions): (usize, &&[(usize, &str)])| Entity {
        id: format!("x{e}"),
        mentions: mentions.iter().map(mention).collect(),
        ..Entity::default()
    };
    let label =
        |&(head, tail, r): &(usize, usize, &str)| Label { head, tail, relation: r.to_string(), evidence: vec![] };
    Document {
        id: title.to_string(),
        title: title.to_string(),
        tokens: vec!["w".to_string(); 40],
        sentences: Segments::from_lengths([10; 4]),
        entities: entities.iter().enumerate().map(entity).collect(),
        labels: Some(labels.iter().map(label).collect()),
        ..Document::default()
    }
}

pub fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

/// xorshift64*
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}
