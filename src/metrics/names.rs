//! Numbers for names: each distinct text is kept once.

use std::collections::HashMap;

#[derive(Clone, Debug, Default)]
pub struct Names {
    ids: HashMap<String, u32>,
    texts: Vec<String>,
}

impl Names {
    /// The number of `text`, a new one where it has none.
    pub fn add(&mut self, text: &str) -> u32 {
        if let Some(&id) = self.ids.get(text) {
            return id;
        }
        // u32::MAX names would fill 100 GB long before the number wraps.
        let id = self.texts.len() as u32;
        self.ids.insert(text.to_string(), id);
        self.texts.push(text.to_string());
        id
    }
    pub fn get(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }
    pub fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).map_or("", String::as_str)
    }
}
