//! Reading fields of a JSON object, each with its bounds, each error with its place.

use crate::text::{nearest, one_line};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// A JSON object and where it stands in the file (`$`, `$.docre`).
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    pub map: &'a Map<String, Value>,
    pub place: &'a str,
}

impl<'a> Fields<'a> {
    pub fn bad(&self, key: &str, what: impl AsRef<str>) -> Error {
        Error::model("E-CONFIG", format!("{key} {}", what.as_ref())).at(format!("{}.{key}", self.place))
    }

    /// The value; None when absent or null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub fn size(&self, key: &str, bounds: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| bounds.contains(n));
        let (low, high) = bounds.into_inner();
        let wrong = || self.bad(key, format!("must be a whole number from {low} to {high}, is {}", shown(value)));
        number.map(Some).ok_or_else(wrong)
    }
    pub fn required_size(&self, key: &str, bounds: RangeInclusive<usize>) -> Result<usize> {
        self.size(key, bounds)?.ok_or_else(|| self.bad(key, "is missing"))
    }

    /// A number in `low..high`, the low end included.
    pub fn number(&self, key: &str, low: f64, high: f64) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|x| *x >= low && *x < high);
        let wrong = || self.bad(key, format!("must be a number from {low} to below {high}, is {}", shown(value)));
        number.map(Some).ok_or_else(wrong)
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.bad(key, format!("must be a string, is {}", shown(value))))
    }
    pub fn flag(&self, key: &str) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.bad(key, format!("must be true or false, is {}", shown(value))))
    }
    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.bad(key, format!("must be an object, is {}", shown(value))))
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&'static str, T)]) -> Result<Option<T>> {
        let Some(word) = self.text(key)? else { return Ok(None) };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == word) {
            return Ok(Some(*choice));
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Err(self.bad(key, format!("must be one of {}, is '{}'", names.join(", "), one_line(word))))
    }

    /// Refuses keys that are not in `known`, and guesses which was meant.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        let Some(key) = self.map.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
        let error = self.bad(&one_line(key), "is not a known setting");
        Err(match nearest(key, known) {
            Some(meant) => error.fix(format!("did you mean {meant}?")),
            None => error.fix(format!("known are {}", known.join(", "))),
        })
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        other => one_line(&other.to_string()),
    }
}
