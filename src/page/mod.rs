//! Pages to look at: HTML and SVG in one file, which asks nothing of the network.
//!
//! A page says everything without its script; that adds the values under the pointer and sorts tables.

mod chart;

pub use chart::{Axis, Bar, Chart, Look, Mark, Series};

use sha2::{Digest, Sha256};
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// `text` as HTML text or as the value of an attribute in double quotes. Control characters that HTML does not
/// allow become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A figure that stands out: what it is, its value, and a note below (may be empty).
pub struct Figure {
    pub label: String,
    pub value: String,
    pub note: String,
}

impl Figure {
    pub fn new(label: impl Into<String>, value: impl Into<String>, note: impl Into<String>) -> Self {
        Figure { label: label.into(), value: value.into(), note: note.into() }
    }
}

/// A cell of a table.
pub enum Cell {
    Text(String),
    Count(usize),
    /// Two decimals.
    Number(f64),
    /// Percent, with a bar.
    Percent(f64),
}

/// A table; the first cell of a row is its heading.
pub struct Table {
    pub caption: String,
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<Cell>>,
}

/// A page in the making: parts in the order in which they are added.
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// With `title` as heading, and what it is about below: pairs of name and value.
    pub fn new(title: &str, about: &[(&str, String)]) -> Self {
        let mut body = format!("<h1>{}</h1>\n<dl class=\"about\">", escape(title));
        for (name, value) in about {
            let _ = write!(body, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        body.push_str("</dl>\n");
        Page { title: title.to_string(), body }
    }

    /// Begins a section.
    pub fn heading(&mut self, text: &str) {
        let _ = writeln!(self.body, "<h2>{}</h2>", escape(text));
    }
    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escape(text));
    }

    /// A list that stands out; nothing if it is empty.
    pub fn warnings(&mut self, texts: &[String]) {
        if !texts.is_empty() {
            let items: String = texts.iter().map(|text| format!("<li>{}</li>", escape(text))).collect();
            let _ = writeln!(self.body, "<ul class=\"warnings\" aria-label=\"Warnings\">{items}</ul>");
        }
    }

    /// Figures that stand out, side by side.
    pub fn figures(&mut self, figures: &[Figure]) {
        self.body.push_str("<dl class=\"figures\">");
        for Figure { label, value, note } in figures {
            let _ = write!(self.body, "<div><dt>{}</dt><dd>{}</dd>", escape(label), escape(value));
            if !note.is_empty() {
                let _ = write!(self.body, "<dd class=\"note\">{}</dd>", escape(note));
            }
            self.body.push_str("</div>");
        }
        self.body.push_str("</dl>\n");
    }

    /// Charts side by side where there is room; those without a point are left out.
    pub fn charts(&mut self, charts: &[Chart]) {
        self.body.push_str("<div class=\"charts\">\n");
        charts.iter().for_each(|chart| self.body.push_str(&chart.html()));
        self.body.push_str("</div>\n");
    }

    /// A table that the page's script can sort.
    pub fn table(&mut self, table: &Table) {
        table.write(&mut self.body);
    }

    /// Folded away until asked for: a table.
    pub fn folded_table(&mut self, summary: &str, table: &Table) {
        let _ = write!(self.body, "<details><summary>{}</summary>", escape(summary));
        table.write(&mut self.body);
        self.body.push_str("</details>\n");
    }

    /// Folded away until asked for: a text with its line ends.
    pub fn folded_text(&mut self, summary: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<details><summary>{}</summary><pre>\n{}</pre></details>",
            escape(summary),
            escape(text)
        );
    }

    /// The whole file. Its policy allows this style and this script, and no request.
    pub fn finish(self) -> String {
        let hash = base64(&Sha256::digest(SCRIPT));
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{}</title>\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
             script-src 'sha256-{hash}'\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}<footer>docre {}</footer>\n</main>\n\
             <script>{SCRIPT}</script>\n</body>\n</html>\n",
            escape(&self.title),
            self.body,
            env!("CARGO_PKG_VERSION"),
        )
    }
}

impl Table {
    fn write(&self, out: &mut String) {
        let caption = escape(&self.caption);
        let _ = write!(
            out,
            "<div class=\"table\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\">\
             <table class=\"sortable\"><caption>{caption}</caption>\n<thead><tr>"
        );
        let text = |column: usize| self.rows.first().is_some_and(|row| matches!(row.get(column), Some(Cell::Text(_))));
        for (column, name) in self.head.iter().enumerate() {
            let class = if text(column) { " class=\"text\"" } else { "" };
            let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escape(name));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            row.iter().enumerate().for_each(|(column, cell)| cell.write(column == 0, out));
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
    }
}

impl Cell {
    fn write(&self, heads: bool, out: &mut String) {
        let _ = match self {
            Cell::Text(text) if heads => write!(out, "<th scope=\"row\" class=\"text\">{}</th>", escape(text)),
            Cell::Text(text) => write!(out, "<td class=\"text\">{}</td>", escape(text)),
            Cell::Count(count) => write!(out, "<td>{count}</td>"),
            Cell::Number(value) => write!(out, "<td>{value:.2}</td>"),
            Cell::Percent(value) => {
                write!(out, "<td class=\"bar\">{value:.2}<i style=\"--part:{:.1}%\"></i></td>", value.clamp(0.0, 100.0))
            }
        };
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit)) & 63;
            out.push(if digit <= chunk.len() { DIGITS[value as usize] as char } else { '=' });
        }
    }
    out
}
