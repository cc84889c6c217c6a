//! The head's fields of `config.json`, under `docre`.

use super::MAX_CLASSES;
use crate::Result;
use crate::model::fields::Fields;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    KdDocre,
    Atlop,
}

/// How the two axes of an axial layer are combined (spec §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxialOrder {
    /// Both read the same input, results summed: the released program.
    Released,
    /// One after the other, each with its residual: the paper.
    Sequential,
}

/// What a padded cell holds before the axial layers (spec §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadCells {
    /// As the released program trains.
    Zero,
    /// As the released program evaluates.
    Bias,
}

const ARCHITECTURES: [(&str, Architecture); 2] = [("kd-docre", Architecture::KdDocre), ("atlop", Architecture::Atlop)];
const AXIAL_ORDERS: [(&str, AxialOrder); 2] =
    [("released", AxialOrder::Released), ("sequential", AxialOrder::Sequential)];
const PAD_CELLS: [(&str, PadCells); 2] = [("zero", PadCells::Zero), ("bias", PadCells::Bias)];

/// The part of the model that reads pairs of entities.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadConfig {
    pub architecture: Architecture,
    pub extractor_size: usize,
    pub block_size: usize,
    /// 0: none, each cell is classified by itself.
    pub axial_layers: usize,
    pub axial_heads: usize,
    pub axial: AxialOrder,
    /// Side of the padded table; 0: each document's own, exactly.
    pub pad_entities: usize,
    pub pad_cells: PadCells,
    /// Relations, the threshold class 0 included.
    pub classes: usize,
    pub axial_layer_norm_eps: f64,
    pub top_k: usize,
    pub context_eps: f64,
}

const HEAD_KEYS: [&str; 12] = [
    "architecture",
    "extractor_size",
    "block_size",
    "axial_layers",
    "axial_heads",
    "axial",
    "pad_entities",
    "pad_cells",
    "classes",
    "axial_layer_norm_eps",
    "top_k",
    "context_eps",
];

impl HeadConfig {
    /// The released head, with `classes` relations.
    pub fn released(architecture: Architecture, classes: usize) -> Self {
        HeadConfig {
            architecture,
            extractor_size: 1024,
            block_size: 64,
            axial_layers: 6,
            axial_heads: 8,
            axial: AxialOrder::Released,
            pad_entities: 0,
            pad_cells: PadCells::Zero,
            classes,
            axial_layer_norm_eps: 1e-5,
            top_k: 4,
            context_eps: if architecture == Architecture::Atlop { 1e-5 } else { 1e-10 },
        }
    }

    /// `labels` is the number of names in id2label, 0 if there are none.
    pub(super) fn parse(fields: Fields, labels: usize, hidden_size: usize) -> Result<Self> {
        fields.only(&HEAD_KEYS)?;
        let architecture = fields.choice("architecture", &ARCHITECTURES)?.unwrap_or(Architecture::KdDocre);
        let usual = HeadConfig::released(architecture, labels);
        let config = HeadConfig {
            architecture,
            extractor_size: fields.size("extractor_size", 1..=1 << 16)?.unwrap_or(usual.extractor_size),
            block_size: fields.size("block_size", 1..=1024)?.unwrap_or(usual.block_size),
            axial_layers: fields.size("axial_layers", 0..=64)?.unwrap_or(usual.axial_layers),
            axial_heads: fields.size("axial_heads", 1..=1024)?.unwrap_or(usual.axial_heads),
            axial: fields.choice("axial", &AXIAL_ORDERS)?.unwrap_or(usual.axial),
            pad_entities: fields.size("pad_entities", 0..=1 << 16)?.unwrap_or(usual.pad_entities),
            pad_cells: fields.choice("pad_cells", &PAD_CELLS)?.unwrap_or(usual.pad_cells),
            classes: fields.size("classes", 2..=MAX_CLASSES)?.unwrap_or(labels),
            axial_layer_norm_eps: fields
                .number("axial_layer_norm_eps", 1e-20, 0.1)?
                .unwrap_or(usual.axial_layer_norm_eps),
            top_k: fields.size("top_k", 1..=MAX_CLASSES)?.unwrap_or(usual.top_k),
            context_eps: fields.number("context_eps", 1e-38, 0.1)?.unwrap_or(usual.context_eps),
        };
        config.check(fields, labels, hidden_size)?;
        Ok(config)
    }

    fn check(&self, fields: Fields, labels: usize, hidden_size: usize) -> Result<()> {
        if !self.extractor_size.is_multiple_of(self.block_size) {
            return Err(fields.bad("block_size", format!("must divide extractor_size {}", self.extractor_size)));
        }
        if self.architecture == Architecture::KdDocre && !hidden_size.is_multiple_of(self.axial_heads) {
            return Err(fields.bad("axial_heads", format!("must divide hidden_size {hidden_size}")));
        }
        if self.classes < 2 {
            return Err(fields.bad("classes", "is missing, and id2label names no relations"));
        }
        if labels != 0 && labels != self.classes {
            return Err(fields.bad("classes", format!("is {}, id2label names {labels}", self.classes)));
        }
        Ok(())
    }

    pub(super) fn to_json(&self) -> Value {
        fn word<T: PartialEq>(choices: &[(&'static str, T)], value: T) -> Option<&'static str> {
            choices.iter().find(|(_, choice)| *choice == value).map(|(name, _)| *name)
        }
        json!({
            "architecture": word(&ARCHITECTURES, self.architecture),
            "extractor_size": self.extractor_size,
            "block_size": self.block_size,
            "axial_layers": self.axial_layers,
            "axial_heads": self.axial_heads,
            "axial": word(&AXIAL_ORDERS, self.axial),
            "pad_entities": self.pad_entities,
            "pad_cells": word(&PAD_CELLS, self.pad_cells),
            "classes": self.classes,
            "axial_layer_norm_eps": self.axial_layer_norm_eps,
            "top_k": self.top_k,
            "context_eps": self.context_eps,
        })
    }
}
